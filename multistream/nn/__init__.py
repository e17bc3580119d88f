"""Helpers for torch modules: a typed ModuleDict, eval mode, values by stage, global average pooling, seeding."""
