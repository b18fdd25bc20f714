"""Who is updated in a step, and in which order: KD-AIF's mechanisms M0 to M4 as objects given to `fit`."""
