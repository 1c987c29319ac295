"""Measurements that print the tables of the docs; each takes ``--json FILE``."""
