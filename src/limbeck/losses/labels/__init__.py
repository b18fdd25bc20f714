"""Terms that compare the student with labels."""
