"""Helpers for torch modules: a typed ModuleDict, temporary eval mode, global average pooling, seeding."""
