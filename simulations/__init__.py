"""Simulation of a whole federation on one machine, its report, and the command line."""
