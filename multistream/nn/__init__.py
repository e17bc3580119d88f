"""Helpers for torch modules, used by every part: a typed ModuleDict, borrowed eval mode, the global average."""
