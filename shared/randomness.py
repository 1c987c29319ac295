"""Randomness that privacy rests on: AES in counter mode, keyed by the operating system."""

import secrets
from dataclasses import dataclass

import numpy as np
from randomgen import AESCounter


@dataclass(frozen=True)
class PrivateRandom:
    """Generator of noise and of user samples.

    Attributes:
        generator: numpy's distributions over AES-128 in counter mode.
        secret: False when the key came from an experiment's seed; whatever such a generator
            touches is not private and is marked so.
    """

    generator: np.random.Generator
    secret: bool


def from_operating_system() -> PrivateRandom:
    """A fresh generator with a 128-bit key from the operating system; never two alike."""
    return PrivateRandom(np.random.Generator(AESCounter(key=secrets.randbits(128))), secret=True)


def from_seed(*seed: int) -> PrivateRandom:
    """A repeatable generator for experiments; marked not secret."""
    sequence = np.random.SeedSequence(seed)
    return PrivateRandom(np.random.Generator(AESCounter(seed=sequence)), secret=False)
