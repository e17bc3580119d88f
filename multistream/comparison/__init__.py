"""Comparison of runs: the settings that differ, intervals and paired tests. Free of torch."""
