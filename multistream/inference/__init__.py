"""Inference: a trained model, its predictions, and their evaluation with classes matched by name."""
