"""Terms that compare inner activations of student and teacher: vectors, maps, tokens, and the relations among samples."""
