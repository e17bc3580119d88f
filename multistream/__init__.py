"""Compose, train and dissect image classifiers made of several streams of evidence."""
