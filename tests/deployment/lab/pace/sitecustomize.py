"""Lets Flower's SuperNode look for messages every 0.3 s instead of every 3 s.

Python imports this module at its start where this folder is in PYTHONPATH. Nothing but the pace
changes; ``measure.py`` runs without it.
"""

import time

FLOWER_S = 3
HERE_S = 0.3

_sleep = time.sleep


def _sleep_less(seconds: float) -> None:
    _sleep(HERE_S if seconds == FLOWER_S else seconds)


time.sleep = _sleep_less
