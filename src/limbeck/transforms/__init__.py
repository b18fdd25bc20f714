"""Transforms: a batch in, a batch out, randomness from a generator that is handed in."""
