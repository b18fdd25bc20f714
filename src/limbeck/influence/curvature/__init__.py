"""Ways to q = (H + damping I)^-1 v, behind one interface and checked against the same dense oracle."""
