"""Concepts from text: lists of names, banks of their text embeddings, and the text tower that computes them."""
