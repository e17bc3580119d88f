"""Concepts from text: a list of names, the bank of their text embeddings, and the text tower that computes it."""
