"""The organisation's own store: one DuckDB file that holds its catalogue and its histories."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow

from shared.catalogue import Catalogue
from shared.columns import UserIds
from shared.errors import DataError
from shared.files import atomic_path
from shared.histories import PrivateHistories

FORMAT = "tacit-store-2"
# Histories pass through in blocks of two of DuckDB's row groups; without a bound of its memory it
# would keep what has passed.
_ROWS_AT_A_TIME = 2 * 122_880
_BOUND = "SET memory_limit = '128MB'"
_TABLES = """
CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);
CREATE TABLE users (place BIGINT, user_id VARCHAR, length BIGINT);
CREATE TABLE interactions (place BIGINT, item BIGINT, time DOUBLE, rating FLOAT);
CREATE TABLE loaded (row BIGINT, user_id VARCHAR, item_id VARCHAR, time DOUBLE, rating FLOAT);
"""


def write_store(
    path: Path,
    name: str,
    catalogue: Catalogue,
    histories: PrivateHistories,
    facts: Mapping[str, str] | None = None,
    loaded: pyarrow.RecordBatchReader | None = None,
) -> None:
    """Write an organisation's data to ``path``, whole or not at all; replaces what is there.

    The tables are ``items``, ``users``, ``interactions``, ``loaded`` and ``meta``; column ``place``
    keeps the order. Only the owner of the file may read it: histories are private.

    Args:
        path: the DuckDB file; its folder is made where it is missing.
        name: of the organisation.
        catalogue: its items.
        histories: its users' histories, of items in ``catalogue``.
        facts: what else ``meta`` holds, under names of the caller.
        loaded: all rows of the source, also of users with short histories, for a refresh that reads
            only what is new: ``row, user_id, item_id, time, rating``.

    Raises:
        DataError: if the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            temporary.unlink(missing_ok=True)
            with duckdb.connect(str(temporary)) as connection:
                temporary.chmod(0o600)
                connection.execute(_TABLES)
                _write_meta(connection, name, catalogue, histories, facts or {})
                _write_items(connection, catalogue)
                if loaded is not None:
                    connection.register("incoming", loaded)
                    connection.execute("INSERT INTO loaded BY NAME SELECT * FROM incoming")
                    connection.unregister("incoming")
                _write_histories(connection, histories)
    except (OSError, duckdb.Error) as error:
        raise DataError(
            f"{path}: the store cannot be written ({str(error).splitlines()[0]}); check that the "
            "folder exists, may be written and has space"
        ) from error


def read_store(path: Path) -> tuple[Catalogue, PrivateHistories]:
    """The catalogue and histories that ``write_store`` has written, in the same order.

    Raises:
        DataError: if the file is missing, is no store of this format, or is open for writing in
            another process.
    """
    with open_store(path) as connection:
        meta = _meta(connection)
        return _read_items(connection, meta), _read_histories(connection, meta, path)


def read_facts(path: Path) -> dict[str, str]:
    """What ``meta`` holds: ``name``, ``format`` and the facts given to ``write_store``.

    Raises:
        DataError: as ``read_store``.
    """
    with open_store(path) as connection:
        return _meta(connection)


def count_users(path: Path) -> int:
    """How many users a store holds. Private.

    Raises:
        DataError: as ``read_store``.
    """
    with open_store(path) as connection:
        return int(connection.execute("SELECT count(*) FROM users").fetchall()[0][0])


@contextmanager
def open_store(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store as a database that can be read.

    Raises:
        DataError: as ``read_store``, also for what DuckDB raises in the block.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such store; make it by importing the organisation's data")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            found = _meta(connection).get("format")
            if found != FORMAT:
                raise DataError(
                    f"{path}: found a store of format {found!r}, expected {FORMAT}; import the "
                    "organisation's data again"
                )
            yield connection
    except duckdb.Error as error:
        raise DataError(
            f"{path}: not readable as a store of tacit ({str(error).splitlines()[0]}); import the "
            "organisation's data again"
        ) from error


def _meta(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return dict(connection.execute("SELECT key, value FROM meta").fetchall())


def _write_meta(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    catalogue: Catalogue,
    histories: PrivateHistories,
    facts: Mapping[str, str],
) -> None:
    meta = {
        **facts,
        "format": FORMAT,
        "name": name,
        "attributes": json.dumps(list(catalogue.attributes)),
        "keys": json.dumps(catalogue.keys is not None),
        "ratings": json.dumps(histories.ratings is not None),
    }
    for entry in meta.items():
        connection.execute("INSERT INTO meta VALUES (?, ?)", entry)


def _write_items(connection: duckdb.DuckDBPyConnection, catalogue: Catalogue) -> None:
    empty = ("",) * len(catalogue)
    texts = {
        "item_id": catalogue.item_ids,
        "title": catalogue.titles,
        "key": empty if catalogue.keys is None else catalogue.keys,
        **{f"attribute_{i}": values for i, values in enumerate(catalogue.attributes.values())},
    }
    # Attributes have names from outside, which may differ by case alone: meta holds them.
    columns = ", ".join(f"{name} VARCHAR" for name in texts)
    connection.execute(f"CREATE TABLE items (place BIGINT, {columns})")
    arrays = {name: np.array(values, dtype=object) for name, values in texts.items()}
    _insert(connection, "items", {"place": np.arange(len(catalogue)), **arrays})


def _write_histories(connection: duckdb.DuckDBPyConnection, histories: PrivateHistories) -> None:
    connection.execute(_BOUND)
    for first in range(0, len(histories), _ROWS_AT_A_TIME):
        last = min(first + _ROWS_AT_A_TIME, len(histories))
        users: dict[str, npt.NDArray[Any]] = {
            "place": np.arange(first, last),
            "user_id": np.array(histories.user_ids[first:last], dtype=object),
            "length": histories.lengths[first:last],
        }
        _insert(connection, "users", users)
    for start in range(0, len(histories.items), _ROWS_AT_A_TIME):
        some = slice(start, min(start + _ROWS_AT_A_TIME, len(histories.items)))
        rows = some.stop - start
        ratings = histories.ratings
        interactions: dict[str, npt.NDArray[Any]] = {
            "place": np.arange(start, some.stop),
            "item": histories.items[some],
            "time": histories.times[some],
            "rating": np.zeros(rows, np.float32) if ratings is None else ratings[some],
        }
        _insert(connection, "interactions", interactions)


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, arrays: dict[str, npt.NDArray[Any]]
) -> None:
    if not len(arrays["place"]):
        return
    connection.register("incoming", arrays)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _read_items(connection: duckdb.DuckDBPyConnection, meta: dict[str, str]) -> Catalogue:
    rows = connection.execute("SELECT * FROM items ORDER BY place").fetchnumpy()
    values = {column: tuple(array.tolist()) for column, array in rows.items()}
    names = json.loads(meta["attributes"])
    return Catalogue(
        item_ids=values["item_id"],
        titles=values["title"],
        attributes={name: values[f"attribute_{i}"] for i, name in enumerate(names)},
        keys=values["key"] if json.loads(meta["keys"]) else None,
    )


def _read_histories(
    connection: duckdb.DuckDBPyConnection, meta: dict[str, str], path: Path
) -> PrivateHistories:
    connection.execute(_BOUND)
    lengths: list[npt.NDArray[Any]] = [np.zeros(1, np.int64)]

    def user_ids() -> Iterator[pyarrow.Array]:
        for block in _blocks(connection, "users", path):
            lengths.append(block.column("length").to_numpy())
            yield block.column("user_id").cast(pyarrow.large_string())

    ids = UserIds.stacked(user_ids(), path.parent)
    offsets = np.cumsum(np.concatenate(lengths), dtype=np.int64)
    rated = bool(json.loads(meta["ratings"]))
    names = ("item", "time", "rating") if rated else ("item", "time")
    # A missing rating is null there and NaN here.
    columns = (
        [block.column(name).to_numpy(zero_copy_only=name != "rating") for name in names]
        for block in _blocks(connection, "interactions", path)
    )
    return PrivateHistories.stacked(ids, offsets, columns, rated, path.parent)


def _blocks(
    connection: duckdb.DuckDBPyConnection, table: str, path: Path
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a table in order, some at a time.

    DuckDB gives a table's rows in the order in which they were written, which is checked: sorting
    would hold all of them in memory.
    """
    place = 0
    for block in connection.sql(f"SELECT * FROM {table}").to_arrow_reader(_ROWS_AT_A_TIME):
        if not np.array_equal(block.column("place"), np.arange(place, place + len(block))):
            raise DataError(
                f"{path}: rows of the table {table} are missing or out of order from place {place} "
                "on; import the organisation's data again"
            )
        place += len(block)
        yield block
