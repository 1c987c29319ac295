"""Recommending at one organisation: lists, reasons, interests and words, all on its own machine."""
