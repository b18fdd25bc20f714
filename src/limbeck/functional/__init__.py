"""Pure tensor mathematics that more than one method needs."""
