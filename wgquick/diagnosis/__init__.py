"""Finds mistakes in files and faults of hosts (`wgq check`, `doctor`, `trace`, `rehearse`)."""
