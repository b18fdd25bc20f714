"""The one loop, what is updated in a step and in which order, and exact checkpoints."""
