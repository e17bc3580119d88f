"""Runtime: device, precision, memory and processes; what depends on the machine and not on the recipe."""
