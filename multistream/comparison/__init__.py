"""Comparison: runs side by side, named by the settings that differ, with paired tests. No torch here."""
