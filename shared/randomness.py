"""Randomness that privacy rests on: AES in counter mode, keyed by the operating system.

Noise and user samples are drawn on the processor, noise in float64, and moved to whatever device
holds the sum. A GPU's own generator is never asked, so the guarantee is the same on every device.
"""

import os
import secrets
from dataclasses import dataclass, field

import numpy as np
from randomgen import AESCounter

from shared.errors import PrivacyError


@dataclass(frozen=True)
class PrivateRandom:
    """Generator of noise and of user samples, for the process that made it alone.

    A forked process, or one that was sent the generator, would repeat the stream, and the
    difference of two releases with equal noise has none.

    Attributes:
        secret: False when the key came from an experiment's seed; whatever such a generator
            touches is not private and is marked so.
    """

    _stream: np.random.Generator
    secret: bool
    _process: int = field(default_factory=os.getpid)

    @property
    def generator(self) -> np.random.Generator:
        """numpy's distributions over AES-128 in counter mode.

        Raises:
            PrivacyError: in another process than the one that made this generator.
        """
        if os.getpid() != self._process:
            raise PrivacyError(
                f"a generator made by process {self._process} is used in process {os.getpid()}, "
                "where it would repeat the same noise; make a new one in each process"
            )
        return self._stream


def from_operating_system() -> PrivateRandom:
    """A fresh generator with a 128-bit key from the operating system; never two alike."""
    return PrivateRandom(np.random.Generator(AESCounter(key=secrets.randbits(128))), secret=True)


def from_seed(*seed: int) -> PrivateRandom:
    """A repeatable generator for experiments; marked not secret."""
    sequence = np.random.SeedSequence(seed)
    return PrivateRandom(np.random.Generator(AESCounter(seed=sequence)), secret=False)
