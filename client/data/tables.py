"""Files and queries as DuckDB tables: read once, as they are, and errors know their rows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow

from client.data.delimited import line_of, read_text
from client.data.formats import Origin, SourceFile, SourceQuery
from client.data.parquet import read_parquet, row_of
from client.data.sql import FLOATS, quoted, readable
from shared.errors import DataError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Table:
    """A file or query in DuckDB, row for row, under column names that do not come from outside.

    Attributes:
        name: of the table in DuckDB; ``rowid`` counts its rows from 0 in the order of the source.
        origin: what was read.
        columns: ``{column as the file names it: column in DuckDB}``.
        types: ``{column as the file names it: its DuckDB type}``.
        left_out: columns that hold neither text nor numbers, such as vectors and structures.
        mixed_endings: whether some lines end as on Windows and others as on Unix.
    """

    name: str
    origin: Origin
    columns: Mapping[str, str]
    types: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    mixed_endings: bool = False

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences on what a person may not expect of this file."""
        name, left_out = self.origin.label, ", ".join(self.left_out)
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
        elif FLOATS.fullmatch(kind):
            whole = f"{name} = trunc({name}) AND abs({name}) < 1e15"
            text = (
                f"CASE WHEN isnan(CAST({name} AS DOUBLE)) THEN '' "
                f"WHEN {whole} THEN CAST(TRY_CAST({name} AS BIGINT) AS VARCHAR) ELSE {text} END"
            )
        return f"coalesce(trim({text}, e' \\t\\r\\n'), '')"

    def place(self, row: int) -> str:
        """``FILE, line 7`` of a text file (its header is line 1), ``FILE, row 6`` of others.

        Args:
            row: counted from 1, without the header.
        """
        if isinstance(self.origin, SourceQuery):
            return f"{self.origin.place}, row {row}"
        if self.origin.kind == "parquet":
            return row_of(self.origin, row)
        return f"{self.origin.path}, line {line_of(self.origin, row)}"

    def listing(self) -> str:
        """The columns in words, for an error."""
        columns = f"it has {', '.join(self.columns)}"
        without = f" (neither text nor numbers: {', '.join(self.left_out)})"
        return columns + without if self.left_out else columns


def load(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    origin: Origin,
    progress: Progress | None = None,
    may_be_empty: bool = False,
) -> Table:
    """Read a file or the rows of a query into the table ``name``.

    Args:
        connection: where the table is made.
        name: of the table.
        origin: what is read.
        progress: told in words how far it is.
        may_be_empty: whether no rows are no error.

    Raises:
        DataError: if it cannot be read, has no rows, or its header is not usable.
    """
    if isinstance(origin, SourceQuery):
        table = _load_query(connection, name, origin, progress)
    elif origin.kind == "parquet":
        columns, types = read_parquet(connection, name, origin)
        table = Table(name, origin, columns, types, _left_out(columns, types))
    else:
        table = _load_text(connection, name, origin)
    if (
        not may_be_empty
        and connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0] == 0
    ):
        what = (
            "the query gives" if origin.kind == "sql" else "the file is empty, it has a header and"
        )
        raise DataError(f"{origin.place}: {what} no rows")
    return table


def _load_text(connection: duckdb.DuckDBPyConnection, name: str, file: SourceFile) -> Table:
    read = read_text(connection, name, file)
    types = dict.fromkeys(read.names, "VARCHAR")
    return Table(name, file, read.names, types, read.left_out, read.mixed_endings)


def _left_out(columns: Mapping[str, str], types: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(column for column in types if column not in columns)


def _load_query(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    query: SourceQuery,
    progress: Progress | None,
) -> Table:
    """Stream the batches of a query into a table; the whole result is never held in memory."""
    reader = query.database.read(query.sql)
    names = list(reader.schema.names)
    for column in names:
        if not column or names.count(column) > 1:
            problem = f"column {column} comes twice" if column else "a column has no name"
            raise DataError(f"{query.place}: {problem}; give every column its own name with AS")
    if not names:
        raise DataError(f"{query.place}: the statement gives no columns; expected a SELECT")
    connection.register("incoming", reader.schema.empty_table())
    described = connection.execute("DESCRIBE SELECT * FROM incoming").fetchall()
    connection.unregister("incoming")
    types = {row[0]: row[1] for row in described}
    columns = {column: f"c{i}" for i, column in enumerate(readable(types))}
    if not columns:
        raise DataError(
            f"{query.place}: no column holds text or numbers; {', '.join(types)} do not"
        )
    selected = ", ".join(f"{quoted(column)} AS {sql}" for column, sql in columns.items())
    batches = _told(reader, query.label, progress) if progress else reader
    connection.register("incoming", pyarrow.RecordBatchReader.from_batches(reader.schema, batches))
    try:
        connection.execute(f"CREATE TEMP TABLE {name} AS SELECT {selected} FROM incoming")
    except duckdb.Error as error:
        raise DataError(
            f"{query.place}: the rows broke off ({query.database.lost(error)}); nothing was "
            "changed, run it again"
        ) from None
    finally:
        connection.unregister("incoming")
    return Table(name, query, columns, types, _left_out(columns, types))


def _told(
    batches: pyarrow.RecordBatchReader, label: str, progress: Progress
) -> Iterator[pyarrow.RecordBatch]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        progress(f"Reading {label}: {rows:,} rows")
