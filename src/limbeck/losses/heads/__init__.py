"""Terms on heads of their own; some of them change the net that is kept."""
