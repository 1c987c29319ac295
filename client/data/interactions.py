"""From an interactions table to histories: who had which item when, checked row by row."""

from dataclasses import dataclass

import duckdb
import numpy as np

from client.data.checks import natural_order, refuse_empty
from client.data.columns import ITEM, RATING, TIME, USER, optional, required
from client.data.tables import Table
from shared.config import DataSection
from shared.errors import DataError
from shared.histories import PrivateHistories

# As seconds 1e11 is in the year 5138, as milliseconds it is 1973.
MILLISECONDS_ABOVE = 1e11
_NUMBERS_BELOW = 1e14
_SECONDS_BELOW = 1e11


@dataclass(frozen=True)
class Interactions:
    """The interactions in the table ``interactions(row, user_id, item_id, ...)``.

    Attributes:
        columns: names of the columns of users, items, times and ratings, the last empty without.
        time: SQL of the time in seconds since 1970.
        time_type: DuckDB type of the column of times.
        unit: of times that are numbers, in seconds.
        further: ``{column of the source: column in DuckDB}`` of columns without a meaning of ours.
    """

    columns: tuple[str, str, str, str]
    time: str
    time_type: str
    unit: float
    further: dict[str, str]

    @property
    def rated(self) -> bool:
        """Whether there is a column ``rating``."""
        return bool(self.columns[3])


def read_interactions(
    connection: duckdb.DuckDBPyConnection, table: Table, options: DataSection, further: bool
) -> Interactions:
    """Read every row into the table ``interactions``, and check it.

    Numbers are seconds since 1970, or milliseconds if the largest of the column is above 1e11: one
    unit for the whole column, so that the order of times is kept. Text is an ISO date and time, UTC
    where it names no zone.

    Args:
        connection: where ``table`` is.
        table: what the source holds.
        options: names of columns that need not be guessed.
        further: whether to keep columns without a meaning of ours.

    Raises:
        DataError: if a column is missing, a user or item is empty, or a time or rating cannot be
            read.
    """
    user = required(table, USER, options.user_column)
    item = required(table, ITEM, options.item_column)
    time = required(table, TIME, options.time_column)
    rating = optional(table, RATING, options.rating_column)
    taken = {user, item, time, rating}
    others = {c: f"further{i}" for i, c in enumerate(table.columns) if further and c not in taken}
    number, stamp = _time(table, time)
    fields = {
        "user_id": table.text(user),
        "item_id": table.text(item),
        "number": number,
        "stamp": stamp,
        **({"rating": f"TRY_CAST({table.text(rating)} AS FLOAT)"} if rating else {}),
        **{sql: table.text(column) for column, sql in others.items()},
    }
    selected = ", ".join(f"{sql} AS {field}" for field, sql in fields.items())
    connection.execute(
        f"CREATE TEMP TABLE interactions AS SELECT rowid + 1 AS row, {selected} FROM {table.name}"
    )
    refuse_empty(connection, "interactions", "user_id", table, user)
    refuse_empty(connection, "interactions", "item_id", table, item)
    unit = _check_times(connection, table, time)
    if rating:
        _refuse(
            connection,
            table,
            rating,
            "rating IS NULL OR NOT isfinite(rating)",
            "a number; correct it or remove the row",
        )
    return Interactions(
        (user, item, time, rating or ""),
        f"coalesce(number * {unit!r}, stamp)",
        table.types[time],
        unit,
        others,
    )


def settle_unknown_items(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    interactions: Interactions,
    options: DataSection,
) -> int:
    """Leave the interactions whose item is in ``catalogue`` in ``known``; how many others are.

    Raises:
        DataError: if there are others and ``options.unknown_items`` is ``refuse``.
    """
    query = (
        "SELECT min(row), arg_min(item_id, row), count(*) FROM interactions "
        "ANTI JOIN catalogue USING (item_id)"
    )
    row, item, count = connection.execute(query).fetchall()[0]
    known = "SELECT * FROM interactions"
    if count and options.unknown_items == "refuse":
        # Rows that an earlier import has read are counted down from 0.
        place = table.place(row) if row > 0 else f"{table.origin.place}, a row read earlier"
        raise DataError(
            f"{place}, column {interactions.columns[1]}: item {item!r} is not among the items "
            f"({count} interactions in all have such items); add the items, remove these "
            'interactions, or leave them out with data.unknown_items = "leave-out"'
        )
    if count:
        known += " SEMI JOIN catalogue USING (item_id)"
    connection.execute(f"CREATE TEMP VIEW known AS {known}")
    return int(count)


def build_histories(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    interactions: Interactions,
    min_history: int,
) -> tuple[PrivateHistories, int]:
    """Histories of the users with at least ``min_history`` interactions, and the number of others.

    The interactions are those of ``known``, which ``settle_unknown_items`` has made. Leaves
    ``users(place, user_id)`` in ``connection``.

    Raises:
        DataError: if no user has that many.
    """
    order = natural_order(connection, "known", "user_id")
    connection.execute(
        f"CREATE TEMP TABLE users AS SELECT row_number() OVER (ORDER BY {order}) - 1 AS place, "
        "user_id, length FROM (SELECT user_id, count(*) AS length FROM known "
        "GROUP BY user_id HAVING count(*) >= $min_history)",
        {"min_history": min_history},
    )
    total = connection.execute("SELECT count(DISTINCT user_id) FROM interactions").fetchall()[0][0]
    users = connection.execute("SELECT user_id, length FROM users ORDER BY place").fetchnumpy()
    kept = len(users["user_id"])
    if not kept:
        raise DataError(
            f"{table.origin.place}: none of the {total} users has at least {min_history} "
            "interactions; give longer histories or lower data.min_history"
        )
    # Ties keep the order of the file, as others who rank on these data do: ordered by item they
    # would make the last item of a tied group the least popular one, and every figure with it.
    rows = connection.execute(
        f"SELECT catalogue.place AS item, {interactions.time} AS time"
        f"{', rating' if interactions.rated else ''} FROM known JOIN users USING (user_id) "
        "JOIN catalogue USING (item_id) ORDER BY users.place, time, known.row"
    ).fetchnumpy()
    histories = PrivateHistories(
        user_ids=tuple(users["user_id"].tolist()),
        offsets=np.concatenate([[0], np.cumsum(users["length"])]).astype(np.int64),
        items=rows["item"].astype(np.int64),
        times=rows["time"].astype(np.float64),
        ratings=rows["rating"].astype(np.float32) if interactions.rated else None,
    )
    return histories, total - kept


def _time(table: Table, column: str) -> tuple[str, str]:
    """SQL of a time as a number of unknown unit, and as seconds where it is a date; one is NULL."""
    name, kind = table.columns[column], table.types[column]
    if kind == "DATE" or kind.startswith("TIMESTAMP"):
        moment = name if kind == "TIMESTAMP WITH TIME ZONE" else f"CAST({name} AS TIMESTAMP)"
        return "NULL::DOUBLE", f"epoch({moment})"
    text = table.text(column)
    number = f"TRY_CAST({text} AS DOUBLE)"
    return number, f"CASE WHEN {number} IS NULL THEN epoch(TRY_CAST({text} AS TIMESTAMPTZ)) END"


def _check_times(connection: duckdb.DuckDBPyConnection, table: Table, column: str) -> float:
    """The unit of the numbers in seconds, after a check of every time."""
    _refuse(
        connection,
        table,
        column,
        f"coalesce(isfinite(coalesce(number, stamp)), false) = false "
        f"OR abs(number) > {_NUMBERS_BELOW!r} OR abs(stamp) > {_SECONDS_BELOW!r}",
        "seconds or milliseconds since 1970, or a date and time such as 2024-05-31T18:00:00Z; "
        "correct it, or name another column with --time-column NAME",
    )
    largest = connection.execute("SELECT max(number) FROM interactions").fetchall()[0][0]
    return 1e-3 if largest is not None and largest > MILLISECONDS_ABOVE else 1.0


def _refuse(
    connection: duckdb.DuckDBPyConnection, table: Table, column: str, wrong: str, expected: str
) -> None:
    query = f"SELECT min(row), count(*) FROM interactions WHERE {wrong}"
    row, count = connection.execute(query).fetchall()[0]
    if row is None:
        return
    found = connection.execute(
        f"SELECT {table.text(column)} FROM {table.name} WHERE rowid = $row - 1", {"row": row}
    ).fetchall()[0][0]
    raise DataError(
        f"{table.place(row)}, column {column}: found {found!r} ({count} such rows), "
        f"expected {expected}"
    )
