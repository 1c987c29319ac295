"""From an items file to a catalogue: identifiers, titles, keys and attributes as text."""

import duckdb

from client.data.checks import natural_order, refuse_empty, refuse_repeated
from client.data.columns import ITEM_IN_CATALOGUE, KEY, TITLE, has, optional, required
from client.data.formats import Source
from client.data.tables import Table, load
from shared.catalogue import Catalogue
from shared.config import DataSection
from shared.errors import DataError

_RECBOLE_NAMES = {"release_year": "year", "class": "genres"}
# "Toy Story (1995)", "Fawlty Towers (1975-1979)", "The Office (2005- )": the last brackets.
_TITLE_AND_YEAR = r"^(.*\S)\s*\((\d{4})\s*(?:[-\x{2013}]\s*(?:\d{4})?)?\s*\)$"


def read_catalogue(
    connection: duckdb.DuckDBPyConnection, table: Table, source: Source, options: DataSection
) -> Catalogue:
    """The catalogue, ordered by identifier: as numbers if all are integers, else as text.

    Leaves ``catalogue(place, item_id)`` in ``connection`` for the interactions to join.

    Args:
        connection: where ``table`` is.
        table: the items file.
        source: all files; ``links.csv`` of MovieLens gives the keys where it is present.
        options: names of columns that need not be guessed.

    Raises:
        DataError: if a column is missing, an identifier, title or key is empty, or two items have
            the same identifier.
    """
    item = required(table, ITEM_IN_CATALOGUE, options.item_column)
    title = required(table, TITLE, options.title_column)
    key, links = _key_column(connection, table, source, options)
    attributes = _attributes(table, source, title, {item, title, key})
    fields = {"item_id": table.text(item), "title": _title(table, source, title)}
    if key:
        fields["key"] = table.text(key)
    fields |= {f"a{i}": sql for i, sql in enumerate(attributes.values())}
    selected = ", ".join(f"{sql} AS {field}" for field, sql in fields.items())
    connection.execute(
        f"CREATE TEMP TABLE items AS SELECT rowid + 1 AS row, {selected} FROM {table.name}"
    )
    checked = {"item_id": item, "title": title} | ({"key": key} if key else {})
    for field, column in checked.items():
        refuse_empty(connection, "items", field, table, column)
    refuse_repeated(connection, "items", "item_id", table, item)
    if links:
        _link(connection, links, table, item, options)
        fields["key"] = ""
    order = natural_order(connection, "items", "item_id")
    connection.execute(
        f"CREATE TEMP TABLE catalogue AS SELECT row_number() OVER (ORDER BY {order}) - 1 AS place, "
        f"* EXCLUDE (row) FROM items"
    )
    result = connection.execute("SELECT * FROM catalogue ORDER BY place").fetchnumpy()
    values = {field: tuple(result[field].tolist()) for field in fields}
    return Catalogue(
        item_ids=values["item_id"],
        titles=values["title"],
        attributes={name: values[f"a{i}"] for i, name in enumerate(attributes)},
        keys=values.get("key"),
    )


def _title(table: Table, source: Source, column: str) -> str:
    text = table.text(column)
    return f"regexp_replace({text}, '{_TITLE_AND_YEAR}', '\\1')" if source.movielens else text


def _attributes(table: Table, source: Source, title: str, taken: set[str | None]) -> dict[str, str]:
    """SQL of every further column, under the name that the attribute gets, in file order."""
    attributes = {}
    for column in table.columns:
        if column == title and source.movielens:
            year = f"regexp_extract({table.text(column)}, '{_TITLE_AND_YEAR}', 2)"
            attributes["year"] = year
        if column in taken:
            continue
        sql, name = table.text(column), column
        if source.movielens and column == "genres":
            sql = (
                f"CASE WHEN {sql} = '(no genres listed)' THEN '' ELSE replace({sql}, '|', ', ') END"
            )
        if (
            table.origin.kind == "recbole"
            and _RECBOLE_NAMES.get(column, column) not in table.columns
        ):
            name = _RECBOLE_NAMES[column]
            # A token_seq separates its tokens by spaces; other formats write "Comedy, Drama".
            sql = f"replace({sql}, ' ', ', ')" if name == "genres" else sql
        attributes[name] = sql
    return attributes


def _key_column(
    connection: duckdb.DuckDBPyConnection, table: Table, source: Source, options: DataSection
) -> tuple[str | None, Table | None]:
    """The column of keys in the items file, or else the links file that has them."""
    given = options.key_column
    if source.links is None or (given and has(table, given)):
        return optional(table, KEY, given), None
    return None, load(connection, "raw_links", source.links)


def _link(
    connection: duckdb.DuckDBPyConnection,
    links: Table,
    table: Table,
    item: str,
    options: DataSection,
) -> None:
    """Add to ``items`` every film's key from ``links.csv``, IMDb numbers as IMDb writes them."""
    film = required(links, ITEM_IN_CATALOGUE)
    column = required(links, KEY, options.key_column or "imdbId")
    key = links.text(column)
    if column == "imdbId":
        # lpad would cut numbers of eight digits down to seven.
        padded = f"CASE WHEN length({key}) < 7 THEN lpad({key}, 7, '0') ELSE {key} END"
        key = (
            f"CASE WHEN {key} = '' OR starts_with({key}, 'tt') THEN {key} ELSE 'tt' || {padded} END"
        )
    connection.execute(
        f"CREATE TEMP TABLE links AS SELECT rowid + 1 AS row, {links.text(film)} AS item_id, "
        f"{key} AS key FROM {links.name}"
    )
    refuse_empty(connection, "links", "key", links, column)
    refuse_repeated(connection, "links", "item_id", links, film)
    query = "SELECT item_id, row FROM items ANTI JOIN links USING (item_id) ORDER BY row LIMIT 1"
    for film_id, row in connection.execute(query).fetchall():
        raise DataError(
            f"{table.place(row)}, column {item}: item {film_id!r} has no row in "
            f"{links.origin.place}; add it there, or remove that file to do without keys"
        )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE items AS SELECT items.*, links.key "
        "FROM items JOIN links USING (item_id)"
    )
