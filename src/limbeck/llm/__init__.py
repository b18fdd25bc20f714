"""Language models that write: rollouts, and the steps that train on them."""
