"""How much a sample matters: the score phi_i = -v' H^-1 g_i.

phi > 0: more weight on the sample raises the query loss, it harms. phi < 0: it helps. Removing sample i of N changes the
query loss by about -phi_i / N. Knows nothing of weights, of loops or of methods.
"""
