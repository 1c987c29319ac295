"""Where the time of rounds goes: what each stage took of the rounds of a run, and its share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.stages import stage_seconds
from simulations.records import RoundRecord, RunName

OTHER = "other"

# What a person reads, by the name under which ``shared.stages.stage`` counts it.
LABELS = {
    "forward": "Forward passes",
    "backward": "Backward passes, gradients by user",
    "sampling": "Drawing users, building rows",
    "clip": "Clipping and adding up",
    "noise": "Noise",
    "apply": "Steps of the adapter",
    "vectors": "Item vectors",
    "ledger": "Ledgers, synced to disk",
    "signatures": "Signatures",
    "masks": "Masks of secure sums",
    "serialise": "Packing and reading messages",
    "checks": "Checks of what leaves and of what comes",
    "files": "Kept answers, checkpoints, heads",
    "aggregate": "Aggregation",
    "statistics": "Counting the statistics",
    OTHER: "Everything else",
}
GROUPS = {
    "Forward passes": ("forward",),
    "Backward passes": ("backward",),
    "Sampling, clipping, noise": ("sampling", "clip", "noise", "apply"),
}
REST = "Ledgers, messages, aggregation and the rest"


@dataclass(frozen=True)
class StageShare:
    """A stage of a run's rounds.

    Attributes:
        name: under which it is counted; ``other`` is what no stage covers.
        label: for a person.
        seconds: in a round, mean over rounds.
        share: of the rounds' time.
    """

    name: str
    label: str
    seconds: float
    share: float


class StageClock:
    """Tells which stages the time of this process went to since it was last asked."""

    def __init__(self) -> None:
        self._before = stage_seconds()

    def taken(self) -> dict[str, float]:
        """Seconds by stage; counts from here again."""
        now, before = stage_seconds(), self._before
        self._before = now
        passed = {name: seconds - before.get(name, 0.0) for name, seconds in now.items()}
        return {name: seconds for name, seconds in passed.items() if seconds > 0.0}


def stage_shares(rounds: Sequence[RoundRecord]) -> list[StageShare]:
    """Stages of rounds, the longest first and what no stage covers last; empty if none is known."""
    timed = [record for record in rounds if record.stages]
    whole = sum(record.seconds for record in timed)
    if not whole:
        return []
    names = dict.fromkeys(name for record in timed for name in record.stages)
    sums = {name: sum(record.stages.get(name, 0.0) for record in timed) for name in names}
    order = sorted(sums, key=lambda name: -sums[name])
    sums[OTHER] = max(0.0, whole - sum(sums.values()))
    return [
        StageShare(name, LABELS.get(name, name), sums[name] / len(timed), sums[name] / whole)
        for name in (*order, OTHER)
    ]


def grouped(record: RoundRecord) -> dict[str, float]:
    """Seconds of a round by group of stages, in the order in which a chart stacks them."""
    stages: Mapping[str, float] = record.stages
    found = {group: sum(stages.get(n, 0.0) for n in names) for group, names in GROUPS.items()}
    return found | {REST: max(0.0, record.seconds - sum(found.values()))}


def timed_rounds(records: Sequence[object], run: RunName = "private") -> list[RoundRecord]:
    """Rounds of a run whose stages are known, in order; of a repeated round the last."""
    found = {r.round: r for r in records if isinstance(r, RoundRecord) and r.run == run}
    return [found[number] for number in sorted(found) if found[number].stages]
