"""The same federation run by tacit, by a Flower app of the usual kind, and by pfl-research."""
