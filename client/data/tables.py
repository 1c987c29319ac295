"""Files as DuckDB tables: every file is read once, as it is, and errors know its lines."""

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from client.data.delimited import first_line, line_of, read_text
from client.data.formats import SourceFile
from shared.errors import DataError

_FLOATS = re.compile(r"FLOAT|DOUBLE|DECIMAL.*")
_TEXT_OR_NUMBER = re.compile(
    r"VARCHAR|ENUM.*|BOOLEAN|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL.*|DATE"
    r"|TIMESTAMP.*|UUID"
)


@dataclass(frozen=True)
class Table:
    """A file in DuckDB, row for row, under column names that do not come from outside.

    Attributes:
        name: of the table in DuckDB; ``rowid`` counts its rows from 0 in the order of the file.
        file: what was read.
        columns: ``{column as the file names it: column in DuckDB}``.
        types: ``{column as the file names it: its DuckDB type}``.
        left_out: columns that hold neither text nor numbers, such as vectors and structures.
        mixed_endings: whether some lines end as on Windows and others as on Unix.
    """

    name: str
    file: SourceFile
    columns: Mapping[str, str]
    types: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    mixed_endings: bool = False

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences on what a person may not expect of this file."""
        name, left_out = self.file.path.name, ", ".join(self.left_out)
        sentences = {
            f"{name}: left out {left_out}, which hold neither text nor numbers": self.left_out,
            f"{name}: lines end in two ways, as when two files were joined; all are read": (
                self.mixed_endings
            ),
        }
        return tuple(sentence for sentence, applies in sentences.items() if applies)

    def text(self, column: str) -> str:
        """SQL of a column as text without spaces around it; empty where there is none.

        Whole floating-point numbers lose their ``.0``: tools that write an empty cell as NaN turn
        identifiers and years into such numbers.
        """
        name, kind = self.columns[column], self.types[column]
        text = f"CAST({name} AS VARCHAR)"
        if kind.endswith("[]"):
            text = f"array_to_string({name}, ', ')"
        elif _FLOATS.fullmatch(kind):
            whole = f"{name} = trunc({name}) AND abs({name}) < 1e15"
            text = (
                f"CASE WHEN isnan(CAST({name} AS DOUBLE)) THEN '' "
                f"WHEN {whole} THEN CAST(TRY_CAST({name} AS BIGINT) AS VARCHAR) ELSE {text} END"
            )
        return f"coalesce(trim({text}, e' \\t\\r\\n'), '')"

    def place(self, row: int) -> str:
        """``FILE, line 7`` of a text file (its header is line 1), ``FILE, row 6`` of Parquet.

        Args:
            row: counted from 1, without the header.
        """
        if self.file.kind == "parquet":
            return f"{self.file.path}, row {row}"
        return f"{self.file.path}, line {line_of(self.file, row)}"

    def listing(self) -> str:
        """The columns in words, for an error."""
        columns = f"it has {', '.join(self.columns)}"
        without = f" (neither text nor numbers: {', '.join(self.left_out)})"
        return columns + without if self.left_out else columns


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


def load(connection: duckdb.DuckDBPyConnection, name: str, file: SourceFile) -> Table:
    """Read a file into the table ``name``.

    Raises:
        DataError: if the file cannot be read, has no rows, or its header is not usable.
    """
    if file.kind == "parquet":
        table = _load_parquet(connection, name, file)
    else:
        read = read_text(connection, name, file)
        types = dict.fromkeys(read.names, "VARCHAR")
        table = Table(name, file, read.names, types, read.left_out, read.mixed_endings)
    if connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] == 0:
        raise DataError(f"{file.path}: the file is empty, it has a header and no rows")
    return table


def _load_parquet(connection: duckdb.DuckDBPyConnection, name: str, file: SourceFile) -> Table:
    path = {"path": glob.escape(str(file.path))}
    reader = "read_parquet($path, hive_partitioning = false)"
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {reader}", path).fetchall()
        types = {row[0]: row[1] for row in described}
        readable = [
            column
            for column, kind in types.items()
            if _TEXT_OR_NUMBER.fullmatch(kind.removesuffix("[]"))
        ]
        columns = {column: f"c{i}" for i, column in enumerate(readable)}
        chosen = ", ".join(f"{quoted(column)} AS {sql}" for column, sql in columns.items())
        if chosen:
            connection.execute(f"CREATE TEMP TABLE {name} AS SELECT {chosen} FROM {reader}", path)
    except duckdb.Error as error:
        raise DataError(
            f"{file.path}: not readable as Parquet ({first_line(error)}); write the file again"
        ) from error
    if not columns:
        raise DataError(f"{file.path}: no column holds text or numbers; {', '.join(types)} do not")
    left_out = tuple(column for column in types if column not in columns)
    return Table(name, file, columns, types, left_out)
