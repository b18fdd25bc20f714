"""How good a model is, what it costs, and whether a comparison proves anything: functions of tensors and numbers."""
