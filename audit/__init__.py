"""Checks of what organisations and servers wrote; runs none of their code."""
