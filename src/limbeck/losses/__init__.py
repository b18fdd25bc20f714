"""Terms: one value per sample. One method, one file."""
