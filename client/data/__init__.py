"""An organisation's data: read from files, kept in its own store, divided for simulation."""
