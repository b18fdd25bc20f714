"""How much a sample matters: the score phi_i = -v' H^-1 g_i.

phi > 0: more weight on the sample raises the query loss, it harms. phi < 0: it helps. At a minimum and
with H the Hessian, removing sample i of N changes the query loss by -phi_i / N to first order; an approximate H keeps the order
better than the size. Knows nothing of weights, of loops or of methods.
"""
