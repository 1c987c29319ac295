"""DuckDB as it is used here: no network, no extensions, names from outside quoted."""

import re
from collections.abc import Iterable, Mapping

import duckdb

INTEGERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER")
FLOATS = re.compile(r"FLOAT|DOUBLE|DECIMAL.*")
_TEXT_OR_NUMBER = re.compile(
    rf"VARCHAR|ENUM.*|BOOLEAN|{INTEGERS.pattern}|{FLOATS.pattern}|DATE|TIMESTAMP.*|UUID"
)


def connect() -> duckdb.DuckDBPyConnection:
    """A private database in memory that fetches nothing, spills nothing to disk and reads UTC."""
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "temp_directory": "",
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def quoted(identifier: str) -> str:
    """A name from outside as an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def readable(types: Mapping[str, str]) -> Iterable[str]:
    """Columns that hold text, numbers or lists of them, from ``{column: DuckDB type}``."""
    return (
        column
        for column, kind in types.items()
        if _TEXT_OR_NUMBER.fullmatch(kind.removesuffix("[]"))
    )
