"""Built-in taps, temporal modules, fusions and losses, and the stream that cuts timm models into stages."""
