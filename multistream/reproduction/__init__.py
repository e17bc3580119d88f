"""Reproduction of the paper's table and figures on other data sets."""
