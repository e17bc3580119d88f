"""Built-in taps, temporal modules, fusions and losses, and the stream that splits timm models into stages."""
