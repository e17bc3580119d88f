"""Runtime: device, precision, memory and processes, which depend on the machine and not on the recipe."""
