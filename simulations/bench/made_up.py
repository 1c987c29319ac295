"""Made-up users and data that several measurements share."""

import numpy as np

from client.data.ingest import Dataset
from shared.catalogue import Catalogue
from shared.histories import PrivateHistories

USERS_PER_ORGANISATION = 4
ITEMS = 50
INTERACTIONS = 5


def even_histories(
    users: int, length: int, items: int, generator: np.random.Generator
) -> PrivateHistories:
    """Users with ``length`` interactions each, items drawn alike, in order of time."""
    return PrivateHistories(
        tuple(f"user-{user}" for user in range(users)),
        np.arange(users + 1, dtype=np.int64) * length,
        generator.integers(items, size=users * length),
        np.tile(np.arange(length, dtype=np.float64), users),
    )


def short_dataset(organisations: int) -> Dataset:
    """Four users with five interactions for each organisation: training on them takes little."""
    catalogue = Catalogue(
        tuple(f"item-{i}" for i in range(ITEMS)),
        tuple(f"Made-up item {i}" for i in range(ITEMS)),
        {},
    )
    users = organisations * USERS_PER_ORGANISATION
    histories = even_histories(users, INTERACTIONS, ITEMS, np.random.default_rng(0))
    return Dataset("made up", catalogue, histories, {}, (), 0)
