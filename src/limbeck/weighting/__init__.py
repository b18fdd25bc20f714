"""From a score to a weight, and the controls that show what the score is worth. Weights are detached, `[B]`, >= 0."""
