"""Comparison of runs: the settings that differ, intervals and paired tests. It does not import torch."""
