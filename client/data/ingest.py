"""The one way in: a source becomes a catalogue and chronological histories, through DuckDB."""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from client.data.checks import refuse_empty, refuse_repeated
from client.data.columns import ITEM, USER, has, named, required
from client.data.formats import Source
from client.data.interactions import (
    Interactions,
    build_histories,
    read_interactions,
    settle_unknown_items,
)
from client.data.items import read_catalogue
from client.data.sources import opened
from client.data.sql import connect
from client.data.tables import Progress, Table, load
from shared.catalogue import Catalogue
from shared.config import DataSection
from shared.histories import PrivateHistories


@dataclass(frozen=True)
class Dataset:
    """What a source holds. ``histories`` and ``user_columns`` are private.

    Attributes:
        name: what the data set is called in reports.
        catalogue: all items of the items file, also those that nobody had.
        histories: of every user with enough interactions, ordered by identifier.
        user_columns: ``{column: one value per user}`` in the order of the histories; empty text
            where a user has none.
        notices: sentences that a person must see.
        dropped_users: users left out for too few interactions.
        unknown_interactions: interactions left out because their item is not in the catalogue.
    """

    name: str
    catalogue: Catalogue
    histories: PrivateHistories
    user_columns: Mapping[str, tuple[str, ...]]
    notices: tuple[str, ...]
    dropped_users: int
    unknown_interactions: int = 0


@dataclass(frozen=True)
class Tables:
    """A source in DuckDB, each row checked by itself.

    Attributes:
        catalogue: all items.
        items: the table of items.
        table: the table of interactions.
        interactions: what its columns mean.
    """

    catalogue: Catalogue
    items: Table
    table: Table
    interactions: Interactions


def load_dataset(options: DataSection) -> Dataset:
    """Read, check and order the data set that ``options`` describes.

    Users and items are ordered by identifier: as numbers if all are integers, else as text. An
    identifier is text without spaces around it. Repeated interactions of a user with an item stay,
    each with its own time. Interactions of a user at the same time keep the order of the file.

    ``options.item_column`` may be the name in only one of the two files; the other is guessed.

    Raises:
        AssetError: if the package with MovieLens 100K is missing or has other bytes.
        ConfigError: if ``options.source`` is not read, or a package for it is missing.
        DataError: if it cannot be read as interactions and items, or no user is left.
    """
    with opened(options) as source, connect() as connection:
        read = read_tables(connection, source, options, further=True)
        unknown = settle_unknown_items(connection, read.table, read.interactions, options)
        histories, dropped = build_histories(
            connection, read.table, read.interactions, options.min_history
        )
        user_columns = _constant_columns(connection, read.interactions)
        tables = [read.table, read.items]
        if source.users:
            users = load(connection, "raw_users", source.users)
            user_columns |= _users_file(connection, users, options)
            tables.append(users)
    notices = [*source.notices, *(notice for table in tables for notice in table.notices)]
    if dropped:
        notices.append(
            f"{dropped} of {dropped + len(histories)} users have fewer than {options.min_history} "
            "interactions and are left out"
        )
    if unknown:
        notices.append(f"{unknown} interactions with items not among the items are left out")
    return Dataset(
        source.name,
        read.catalogue,
        histories,
        user_columns,
        tuple(notices),
        dropped,
        unknown,
    )


def read_tables(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    options: DataSection,
    *,
    further: bool,
    progress: Progress | None = None,
    may_be_empty: bool = False,
) -> Tables:
    """Read items and interactions; leaves ``catalogue`` and ``interactions`` in ``connection``.

    Args:
        connection: an empty database.
        source: what is read.
        options: names of columns that need not be guessed.
        further: whether to keep columns of the interactions without a meaning of ours.
        progress: told in words how far it is.
        may_be_empty: whether no interactions are no error.

    Raises:
        DataError: if a row, a column or the whole cannot be read.
    """
    table = load(connection, "raw_interactions", source.interactions, progress, may_be_empty)
    items = load(connection, "raw_items", source.items, progress)
    if options.item_column and not has(items, options.item_column):
        named(table, ITEM, options.item_column)
    catalogue = read_catalogue(connection, items, source, _known(items, options))
    interactions = read_interactions(connection, table, _known(table, options), further)
    connection.execute(f"DROP TABLE {table.name}")
    return Tables(catalogue, items, table, interactions)


def _known(table: Table, options: DataSection) -> DataSection:
    """The options with the item column only where this file has it."""
    known = options.item_column and has(table, options.item_column)
    return options if known else options.model_copy(update={"item_column": ""})


def _constant_columns(
    connection: duckdb.DuckDBPyConnection, interactions: Interactions
) -> dict[str, tuple[str, ...]]:
    """Further columns of the interactions that have one value per user, and so describe users."""
    if not interactions.further:
        return {}
    names = list(interactions.further.values())
    ranges = ", ".join(f"min({name}) AS {name}, max({name}) AS {name}_max" for name in names)
    connection.execute(
        f"CREATE TEMP TABLE constants AS SELECT user_id, {ranges} FROM interactions GROUP BY ALL"
    )
    agreed = ", ".join(f"bool_and({name} = {name}_max)" for name in names)
    constant = connection.execute(f"SELECT {agreed} FROM constants").fetchall()[0]
    chosen = [
        (column, name)
        for (column, name), same in zip(interactions.further.items(), constant, strict=True)
        if same
    ]
    rows = connection.execute(
        "SELECT constants.* FROM users JOIN constants USING (user_id) ORDER BY place"
    ).fetchnumpy()
    return {column: tuple(rows[name].tolist()) for column, name in chosen}


def _users_file(
    connection: duckdb.DuckDBPyConnection, table: Table, options: DataSection
) -> dict[str, tuple[str, ...]]:
    known = options.user_column and has(table, options.user_column)
    user = required(table, USER, options.user_column if known else "")
    further = {c: f"further{i}" for i, c in enumerate(table.columns) if c != user}
    selected = "".join(f", {table.text(column)} AS {sql}" for column, sql in further.items())
    connection.execute(
        f"CREATE TEMP TABLE described AS SELECT rowid + 1 AS row, {table.text(user)} AS user_id"
        f"{selected} FROM {table.name}"
    )
    refuse_empty(connection, "described", "user_id", table, user)
    refuse_repeated(connection, "described", "user_id", table, user)
    values = "".join(f", coalesce({sql}, '') AS {sql}" for sql in further.values())
    rows = connection.execute(
        f"SELECT place{values} FROM users LEFT JOIN described USING (user_id) ORDER BY place"
    ).fetchnumpy()
    return {column: tuple(rows[sql].tolist()) for column, sql in further.items()}
