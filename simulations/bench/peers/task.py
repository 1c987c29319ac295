"""The federation that all ways run, as files: settings, texts, vectors and histories.

Only ``shared`` is imported here: pfl-research reads the task in an environment of its own.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file
from torch import Tensor

from shared.adapters import Arrays
from shared.assets import Base
from shared.config import Config, load_config
from shared.encoder import Vectors
from shared.sections import to_toml
from shared.user_model import pad_windows

ROUNDS = "rounds.jsonl"
ADAPTER = "adapter.safetensors"


@dataclass(frozen=True)
class Task:
    """Public settings of the federation.

    Attributes:
        config: of the run.
        base: base model of encoder and user model.
        precision: of the peers' matrix products, ``float32`` or ``bfloat16``.
        noise_multiplier: of a private step.
        users: first so many of the data; 0: all.
        threads: of one process that has the machine for itself.
    """

    config: Config
    base: Base
    precision: str
    noise_multiplier: float
    users: int
    threads: int


def write_task(folder: Path, task: Task) -> None:
    """Write the settings into the folder of the task."""
    base = task.base
    (folder / "config.toml").write_text(to_toml(task.config))
    values = {
        "base": [base.name, base.reference, str(base.path.resolve()), base.weights_sha256],
        "precision": task.precision,
        "noise_multiplier": task.noise_multiplier,
        "users": task.users,
        "threads": task.threads,
    }
    (folder / "task.json").write_text(json.dumps(values))


def read_task(folder: Path) -> Task:
    """The settings that ``write_task`` wrote."""
    values = json.loads((folder / "task.json").read_text())
    name, reference, path, sha256 = values["base"]
    return Task(
        load_config(folder / "config.toml"),
        Base(name, reference, Path(path), sha256),
        str(values["precision"]),
        float(values["noise_multiplier"]),
        int(values["users"]),
        int(values["threads"]),
    )


def write_items(folder: Path, texts: Sequence[str], vectors: Vectors) -> None:
    """Write the items: texts, and the unit vectors that were computed from them."""
    (folder / "texts.json").write_text(json.dumps(list(texts)))
    np.save(folder / "vectors.npy", vectors)


def read_texts(folder: Path) -> list[str]:
    """Texts of the items."""
    texts: list[str] = json.loads((folder / "texts.json").read_text())
    return texts


def read_vectors(folder: Path) -> Vectors:
    """``[items, dim] float32`` unit vectors of the items."""
    vectors: Vectors = np.load(folder / "vectors.npy")
    return vectors


def write_histories(
    folder: Path, organisation: int, histories: Sequence[npt.NDArray[np.int64]]
) -> None:
    """Write what an organisation may learn from: one history per user."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    items = np.concatenate([np.asarray(history, dtype=np.int64) for history in histories])
    np.savez(_organisation(folder, organisation), lengths=lengths, items=items)


def read_histories(folder: Path, organisation: int) -> list[npt.NDArray[np.int64]]:
    """Histories of an organisation's users, each ``[length] int64``."""
    with np.load(_organisation(folder, organisation)) as stored:
        return np.split(stored["items"], np.cumsum(stored["lengths"])[:-1])


def windows(histories: Sequence[npt.NDArray[np.int64]], window: int) -> tuple[Tensor, Tensor]:
    """Inputs and next items ``[users, positions] int64``, padded with 0 and -1 at the right."""
    padded, lengths = pad_windows(histories, window + 1)
    targets = padded[:, 1:].copy()
    targets[np.arange(targets.shape[1]) >= (lengths - 1)[:, None]] = -1
    return torch.from_numpy(padded[:, :-1].copy()), torch.from_numpy(targets)


def round_finished(out: Path) -> None:
    """Note the time at which a round ended, on the clock that all processes share."""
    with (out / ROUNDS).open("a") as file:
        file.write(json.dumps(time.monotonic()) + "\n")


def rounds_finished(out: Path) -> list[float]:
    """When each round ended, seconds of ``time.monotonic``."""
    path = out / ROUNDS
    lines = path.read_text().splitlines() if path.exists() else []
    return [float(json.loads(line)) for line in lines]


def keep_adapter(out: Path, adapter: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Keep the adapter after the last round, for comparison."""
    arrays: Arrays = {name: np.ascontiguousarray(value) for name, value in adapter.items()}
    save_file(arrays, out / ADAPTER)


def _organisation(folder: Path, number: int) -> Path:
    return folder / f"organisation-{number}.npz"
