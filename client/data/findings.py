"""What an organisation's data looks like, in figures for its own operator; private."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.data.ingest import Dataset
from client.data.store import read_facts, read_store
from shared.histories import PrivateHistories


@dataclass(frozen=True)
class Findings:
    """Exact figures of an organisation's data. Private: they are shown to its operator alone.

    Attributes:
        users: with enough interactions to take part.
        short_users: with too few, who are left out.
        items: of the catalogue.
        interactions: of the users who take part.
        unknown_interactions: left out because their item is not in the catalogue.
        first_day: of the earliest interaction, ``2024-05-31`` (UTC).
        last_day: of the latest.
    """

    users: int
    short_users: int
    items: int
    interactions: int
    unknown_interactions: int
    first_day: str
    last_day: str


def describe(dataset: Dataset) -> Findings:
    """The figures of a data set as it was read."""
    return findings_of(
        dataset.histories,
        len(dataset.catalogue),
        dataset.dropped_users,
        dataset.unknown_interactions,
    )


def describe_store(path: Path) -> Findings:
    """The figures of a store that ``import_store`` or ``refresh_store`` has written.

    Raises:
        DataError: if the file is missing or no store.
    """
    catalogue, histories = read_store(path)
    facts = read_facts(path)
    return findings_of(
        histories,
        len(catalogue),
        json.loads(facts.get("short_users", "0")),
        json.loads(facts.get("unknown_interactions", "0")),
    )


def findings_of(
    histories: PrivateHistories, items: int, short_users: int, unknown_interactions: int
) -> Findings:
    """The figures of histories that hold at least one interaction."""
    first, last = (
        str(np.datetime64(int(np.floor(moment)), "s").astype("datetime64[D]"))
        for moment in (histories.times.min(), histories.times.max())
    )
    return Findings(
        users=len(histories),
        short_users=short_users,
        items=items,
        interactions=len(histories.items),
        unknown_interactions=unknown_interactions,
        first_day=first,
        last_day=last,
    )
