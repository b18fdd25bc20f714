"""Small nets of the benchmark papers, and how any other model is named and built."""
