"""Our own parts: taps, temporals, fusions, and the stream that cuts any timm model."""
