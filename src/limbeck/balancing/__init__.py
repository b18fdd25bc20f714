"""From the losses of the terms to factors on their coefficients."""
