"""Recommendations for all users at once, as one Parquet file."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from client.recommend.query import Query
from client.recommend.recommender import Recommender
from shared.errors import RunError
from shared.files import atomic_path
from shared.scoring import Ints, Scores

SCHEMA = pyarrow.schema(
    [
        ("user_id", pyarrow.string()),
        ("rank", pyarrow.int32()),
        ("item_id", pyarrow.string()),
        ("title", pyarrow.string()),
        ("score", pyarrow.float32()),
    ]
)
USERS_PER_BLOCK = 512


def recommend_all(
    recommender: Recommender,
    query: Query,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write every user's list to a Parquet file, whole or not at all.

    Args:
        recommender: of the organisation.
        query: how to rank, the same for all.
        out: file to write: ``user_id, rank, item_id, title, score``, best first, user by user.
        progress: is told how many users are done of how many.

    Returns:
        Number of lines.

    Raises:
        ConfigError: if the query makes no sense.
        RunError: if the file cannot be written.
    """
    users, lines = len(recommender.histories), 0
    try:
        with atomic_path(out) as temporary:
            with pyarrow.parquet.ParquetWriter(temporary, SCHEMA) as writer:
                for start in range(0, users, USERS_PER_BLOCK):
                    block = np.arange(start, min(start + USERS_PER_BLOCK, users))
                    table = _table(recommender, block, recommender.ranked(block, query))
                    writer.write_table(table)
                    lines += len(table)
                    progress(int(block[-1]) + 1, users)
            # Lists show what a person has had.
            temporary.chmod(0o600)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from error
    return lines


def _table(
    recommender: Recommender,
    users: Ints,
    found: Iterator[tuple[Ints, Scores]],
) -> pyarrow.Table:
    catalogue, identifiers = recommender.catalogue, recommender.histories.user_ids
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for user, (places, scores) in zip(users, found, strict=True):
        columns["user_id"] += [identifiers[user]] * len(places)
        columns["rank"] += range(1, len(places) + 1)
        columns["item_id"] += [catalogue.item_ids[place] for place in places]
        columns["title"] += [catalogue.titles[place] for place in places]
        columns["score"] += scores.tolist()
    return pyarrow.table(columns, schema=SCHEMA)
