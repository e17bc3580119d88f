"""Built-in taps, temporals, fusions and losses, and the stream that cuts timm models into stages."""
