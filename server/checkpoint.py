"""Checkpoints: after every round the whole state of the server, as one safetensors file."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from server.aggregation import IterateAverage, ServerOptimizer, Signal
from shared.adapters import Arrays
from shared.errors import RunError
from shared.files import atomic_path

KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Server state after a round.

    Attributes:
        round: the last finished round.
        adapter: after it.
        optimizer_round: updates that the optimiser has seen.
        first, second: its moments; empty where it has none.
        average_count, average: of the averaged iterates.
        total, noise_variance: of the signal's estimate.
    """

    round: int
    adapter: Arrays
    optimizer_round: int
    first: Arrays
    second: Arrays
    average_count: int
    average: Arrays
    noise_variance: float
    total: Arrays

    @classmethod
    def of(
        cls,
        round_number: int,
        adapter: Arrays,
        optimizer: ServerOptimizer,
        average: IterateAverage,
        signal: Signal,
    ) -> "Checkpoint":
        """The state of a running federation."""
        return cls(
            round_number,
            adapter,
            optimizer.round,
            optimizer.first,
            optimizer.second,
            average.count,
            average.mean,
            signal.noise_variance,
            signal.total,
        )

    def restore(self, optimizer: ServerOptimizer, average: IterateAverage, signal: Signal) -> None:
        """Put optimiser, average and signal back as they were."""
        signal.rounds = self.round
        signal.noise_variance, signal.total = self.noise_variance, self.total
        optimizer.round = self.optimizer_round
        optimizer.first, optimizer.second = self.first, self.second
        average.count, average.mean = self.average_count, self.average


def save_checkpoint(directory: Path, checkpoint: Checkpoint, plan_sha256: str) -> None:
    """Write a checkpoint atomically and drop all but the newest ``KEPT``."""
    groups = {
        "adapter": checkpoint.adapter,
        "first": checkpoint.first,
        "second": checkpoint.second,
        "average": checkpoint.average,
        "total": checkpoint.total,
    }
    arrays = {f"{g}/{name}": v for g, part in groups.items() for name, v in part.items()}
    metadata = {
        "state": json.dumps(
            {
                "round": checkpoint.round,
                "optimizer_round": checkpoint.optimizer_round,
                "average_count": checkpoint.average_count,
                "noise_variance": checkpoint.noise_variance,
                "plan": plan_sha256,
            }
        )
    }
    with atomic_path(directory / f"round-{checkpoint.round:05d}.safetensors") as temporary:
        save_file(arrays, temporary, metadata=metadata)
    for old in sorted(directory.glob("round-*.safetensors"))[:-KEPT]:
        old.unlink()


def load_checkpoint(directory: Path, plan_sha256: str) -> Checkpoint | None:
    """The newest checkpoint, or None where there is none.

    Raises:
        RunError: if it cannot be read or belongs to another plan.
    """
    found = sorted(directory.glob("round-*.safetensors"))
    if not found:
        return None
    groups: dict[str, Arrays] = {
        group: {} for group in ("adapter", "first", "second", "average", "total")
    }
    try:
        with safe_open(found[-1], framework="numpy") as file:
            state = json.loads((file.metadata() or {})["state"])
            for key in file.keys():  # noqa: SIM118
                group, _, name = key.partition("/")
                groups[group][name] = file.get_tensor(key)
        plan = state["plan"]
        checkpoint = Checkpoint(
            round=state["round"],
            optimizer_round=state["optimizer_round"],
            average_count=state["average_count"],
            noise_variance=state["noise_variance"],
            **groups,
        )
    except (SafetensorError, KeyError, ValueError) as error:
        raise RunError(
            f"{found[-1]}: not a checkpoint ({error}); remove it to go on from the one before"
        ) from error
    if plan != plan_sha256:
        raise RunError(
            f"{found[-1]}: belongs to another privacy plan; resume with the run's configuration"
        )
    return checkpoint
