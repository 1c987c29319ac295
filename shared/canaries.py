"""The record of one release's canaries: pretend users whose traces bound epsilon from below."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from shared.errors import RunError
from shared.files import atomic_path
from shared.grid import GRID_BITS

DTYPES = {
    "keys": "uint64",
    "residuals": "float32",
    "signs": "int8",
    "sampled": "bool",
    "batch_sizes": "int64",
}


@dataclass(frozen=True)
class CanaryRecord:
    """What the canaries of one release saw. Never leaves the organisation.

    It holds the noise at some coordinates of the release, so that whoever has both can take the
    noise off there, and the number of people that entered. The first canaries are *members*, in
    the data and sampled like users; the others are *reserves*, whose coordinates show noise alone.

    Attributes:
        kind: ``popularity``, ``cooccurrence`` or ``step``.
        run, round: which release.
        attempt: at the round's secure sum; only the last one was opened.
        sampling_rate, noise_multiplier, sensitivity, noise_share, grid_bits: of the mechanism, as
            planned.
        noise: ``own`` or ``shared``, as planned.
        least_participants: fewest organisations in a sum, as planned.
        delta: at which the plan states epsilon.
        people: users and members that could enter.
        keys: ``[canaries] uint64`` public names of the coordinates, the same at every organisation.
        residuals: ``[steps, canaries] float32`` what was released at each coordinate, less what the
            users added, over the sensitivity.
        signs: ``[steps, canaries] int8`` direction, 1 or -1, in which a canary pushes if it enters.
        sampled: ``[steps, members] bool`` whether it entered.
        batch_sizes: ``[steps] int64`` users and members that entered.
    """

    kind: str
    run: str
    round: int
    attempt: int
    sampling_rate: float
    noise_multiplier: float
    sensitivity: float
    noise_share: float
    grid_bits: int
    noise: str
    least_participants: int
    delta: float
    people: int
    keys: npt.NDArray[np.uint64]
    residuals: npt.NDArray[np.float32]
    signs: npt.NDArray[np.int8]
    sampled: npt.NDArray[np.bool_]
    batch_sizes: npt.NDArray[np.int64]

    @property
    def members(self) -> int:
        """How many canaries are in the data."""
        return int(self.sampled.shape[1])

    def save(self, folder: Path) -> Path:
        """Write ``<kind>-<round>.safetensors``, readable by its owner alone; returns its path.

        A further attempt has its number after the round's.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        again = f"-{self.attempt}" if self.attempt else ""
        path = folder / f"{self.kind}-{self.round:05d}{again}.safetensors"
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {name: np.ascontiguousarray(values.pop(name)) for name in DTYPES}
        content = save(arrays, metadata={"canaries": json.dumps(values)})
        with atomic_path(path) as temporary:
            # Not opened and then restricted: between the two, others could open it.
            descriptor = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a record.

        Raises:
            RunError: names the file and what is wrong with it.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                values: dict[str, Any] = json.loads((file.metadata() or {})["canaries"])
                arrays = {name: file.get_tensor(name) for name in DTYPES}
            record = cls(**values, **arrays)
            record._check()
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path}: is no record of canaries ({error}); run the audit on the folder that "
                "the run wrote"
            ) from error
        return record

    def _check(self) -> None:
        for name, dtype in DTYPES.items():
            found = getattr(self, name).dtype
            if found != dtype:
                raise ValueError(f"{name} is {found}, expected {dtype}")
        steps, canaries = self.residuals.shape
        if (
            self.keys.shape != (canaries,)
            or self.signs.shape != (steps, canaries)
            or self.sampled.ndim != 2
            or len(self.sampled) != steps
            or not 0 < self.members < canaries
            or self.batch_sizes.shape != (steps,)
        ):
            raise ValueError("its arrays do not fit each other")
        if not np.isfinite(self.residuals).all():
            raise ValueError("it has residuals that are not finite")
        if not (
            0.0 < self.sampling_rate <= 1.0
            and self.noise_multiplier >= 0.0
            and 0.0 < self.noise_share <= 1.0
            and (self.grid_bits == 0 or self.grid_bits in GRID_BITS)
        ):
            raise ValueError("its mechanism is none")
