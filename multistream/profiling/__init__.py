"""Cost of a network by stage: parameters, multiply-adds, time and memory."""
