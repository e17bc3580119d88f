"""Reproduction of the paper's table and figures on another data set."""
