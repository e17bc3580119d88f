"""Profiling: what a network costs, stage by stage."""
