"""Whoever answers for the teacher."""
