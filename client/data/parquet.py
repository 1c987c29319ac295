"""Parquet files, alone or in folders of parts, as DuckDB tables."""

import glob

import duckdb

from client.data.delimited import first_line
from client.data.formats import SourceFile
from client.data.parts import keys_of
from client.data.sql import quoted, readable
from shared.errors import DataError

_ROWS = "read_parquet($paths, hive_partitioning = false, union_by_name = true)"


def read_parquet(
    connection: duckdb.DuckDBPyConnection, name: str, file: SourceFile
) -> tuple[dict[str, str], dict[str, str]]:
    """Read a file, or the parts of a folder in order, into the table ``name``.

    A folder ``day=2024-05-31`` gives its files a column ``day``, unless they have one.

    Returns:
        ``{column as the file names it: column in DuckDB}`` and ``{column: type}``, the second with
        the columns that were left out as neither text nor numbers.

    Raises:
        DataError: if a file cannot be read or no column holds text or numbers.
    """
    parts = file.parts or (file.path,)
    keys = keys_of(file.path, parts) if file.parts else {}
    values: dict[str, list[str] | list[str | None]] = {
        "paths": [glob.escape(str(path)) for path in parts]
    }
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {_ROWS}", values).fetchall()
        types = {row[0]: row[1] for row in described}
        chosen = {column: quoted(column) for column in readable(types)}
        for place, (key, of_parts) in enumerate(keys.items()):
            if key not in types:
                types[key] = "VARCHAR"
                chosen[key] = f"$key{place}[CAST(file_index AS BIGINT) + 1]"
                values[f"key{place}"] = of_parts
        columns = {column: f"c{i}" for i, column in enumerate(chosen)}
        selected = ", ".join(f"{sql} AS {columns[column]}" for column, sql in chosen.items())
        if selected:
            connection.execute(
                f"CREATE TEMP TABLE {name} AS SELECT {selected} FROM {_ROWS}", values
            )
    except duckdb.Error as error:
        raise DataError(
            f"{file.path}: not readable as Parquet ({first_line(error)}); write the file again"
        ) from error
    if not columns:
        raise DataError(f"{file.path}: no column holds text or numbers; {', '.join(types)} do not")
    return columns, types


def row_of(file: SourceFile, row: int) -> str:
    """``FILE, row 6``; of a folder the part in which the row is, counted in that part.

    Args:
        file: what was read.
        row: counted from 1 over all parts.
    """
    if not file.parts:
        return f"{file.path}, row {row}"
    query = "SELECT num_rows FROM parquet_file_metadata($path)"
    with duckdb.connect() as connection:
        for part in file.parts:
            path = {"path": glob.escape(str(part))}
            rows = connection.execute(query, path).fetchall()[0][0]
            if row <= rows:
                return f"{part}, row {row}"
            row -= rows
    return f"{file.path}, row {row} after the last"
