"""The simulation: a program on a machine, in time."""
