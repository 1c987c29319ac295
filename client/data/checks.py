"""Checks that hold for any table with canonical columns, and how their errors read."""

import duckdb

from client.data.tables import Table
from shared.errors import DataError

_INTEGER = "[+-]?[0-9]{1,38}"


def natural_order(connection: duckdb.DuckDBPyConnection, view: str, column: str) -> str:
    """SQL that orders by number if every identifier in a column is an integer, else by text."""
    query = f"SELECT bool_and(regexp_full_match({column}, '{_INTEGER}')) FROM {view}"
    integers = connection.execute(query).fetchall()[0][0]
    return f"CAST({column} AS HUGEINT), {column}" if integers else column


def refuse_empty(
    connection: duckdb.DuckDBPyConnection, view: str, field: str, table: Table, column: str
) -> None:
    """Raise ``DataError`` naming the first row of ``view`` whose ``field`` is empty.

    Args:
        connection: where ``view`` is, with a column ``row`` counted from 1.
        view: table or view with canonical columns.
        field: its canonical column.
        table: the file that the view shows.
        column: the column as the file names it.
    """
    query = f"SELECT min(row), count(*) FROM {view} WHERE {field} = ''"
    row, count = connection.execute(query).fetchall()[0]
    if row is not None:
        raise DataError(
            f"{table.place(row)}, column {column}: empty ({count} such rows); expected a value "
            "in every row, fill it in or remove the row"
        )


def refuse_repeated(
    connection: duckdb.DuckDBPyConnection, view: str, field: str, table: Table, column: str
) -> None:
    """Raise ``DataError`` naming the first two rows whose ``field`` is the same; see above."""
    query = (
        f"SELECT {field}, min(row), count(*) FROM {view} GROUP BY {field} HAVING count(*) > 1 "
        "ORDER BY 2 LIMIT 1"
    )
    for value, first, count in connection.execute(query).fetchall():
        second = connection.execute(
            f"SELECT min(row) FROM {view} WHERE {field} = $value AND row > $first",
            {"value": value, "first": first},
        ).fetchall()[0][0]
        raise DataError(
            f"{table.place(second)}, column {column}: {value!r} is already in "
            f"{table.place(first).rpartition(', ')[2]} ({count} times in all); expected it once, "
            "remove the others"
        )
