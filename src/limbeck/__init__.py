"""Knowledge distillation with influence weights."""

__version__ = "0.1.0.dev0"
