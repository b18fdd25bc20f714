"""Reads inner activations; later also fits the widths of student and teacher to each other."""
