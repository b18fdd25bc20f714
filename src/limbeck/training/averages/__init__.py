"""Averages of the student's weights along its training."""
