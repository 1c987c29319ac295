"""Delimited text, read to the letter: what deviates is an error that names its line."""

import csv
import glob
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb

from client.data.formats import SourceFile
from shared.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class TextColumns:
    """Columns of a text file after reading.

    Attributes:
        names: ``{column as the file names it: column in DuckDB}``.
        left_out: columns of vectors, which RecBole marks ``float_seq``.
        mixed_endings: whether some lines end as on Windows and others as on Unix.
    """

    names: Mapping[str, str]
    left_out: tuple[str, ...]
    mixed_endings: bool


def read_text(connection: duckdb.DuckDBPyConnection, name: str, file: SourceFile) -> TextColumns:
    """Read a text file into the table ``name``, every column as text.

    Raises:
        DataError: if the header is not usable, or a line has another number of values than the
            header, an open quote, or bytes that are not UTF-8.
    """
    names = _header(file)
    columns = {f"c{i}": "VARCHAR" for i in range(len(names))}
    mixed = False
    try:
        _read_csv(connection, name, file, file.path, columns)
    except duckdb.Error as error:
        mixed = _has_mixed_endings(file.path)
        if not mixed:
            raise DataError(_sentence(file, error)) from error
    if mixed:
        # The reader takes one kind of line ending; its lenient mode would drop values in silence.
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "one-ending"
            _write_unix_endings(file.path, copy)
            try:
                _read_csv(connection, name, file, copy, columns)
            except duckdb.Error as error:
                raise DataError(_sentence(file, error)) from error
    chosen = dict(zip(names, columns, strict=True))
    if file.kind != "recbole":
        return TextColumns(chosen, (), mixed)
    return _recbole_columns(file, chosen, mixed)


def line_of(file: SourceFile, row: int) -> int:
    """Line on which a row begins, counted from 1; quoted line breaks and blank lines move it.

    Args:
        file: a text file; it is read again up to the row.
        row: counted from 1, without the header.
    """
    delimiter, quote = _dialect(file)
    record = row if not file.columns else row - 1
    with file.path.open(encoding=_encoding(file), newline="") as lines:
        if not quote:
            numbers = (number for number, line in enumerate(lines, 1) if line.strip("\r\n"))
            return next(islice(numbers, record, None))
        reader = csv.reader(lines, delimiter=delimiter)
        begins = 1
        for values in reader:
            if values and record == 0:
                break
            record -= bool(values)
            begins = reader.line_num + 1
        return begins


def first_line(error: duckdb.Error) -> str:
    """What DuckDB says first, without its advice on options that a person here does not set."""
    return str(error).strip().splitlines()[0].rstrip(".")


def _read_csv(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    file: SourceFile,
    path: Path,
    columns: Mapping[str, str],
) -> None:
    delimiter, quote = _dialect(file)
    connection.execute(
        f"CREATE TEMP TABLE {name} AS SELECT * FROM read_csv($path, delim = $delimiter, "
        "quote = $quote, escape = $quote, columns = $columns, header = $header, "
        "encoding = $encoding, auto_detect = false)",
        {
            "path": glob.escape(str(path)),
            "delimiter": delimiter,
            "quote": quote,
            "columns": columns,
            "header": not file.columns,
            "encoding": _encoding(file),
        },
    )


def _has_mixed_endings(path: Path) -> bool:
    lines, windows, last = 0, 0, b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            lines += chunk.count(b"\n")
            windows += (last + chunk).count(b"\r\n")
            last = chunk[-1:]
    return 0 < windows < lines


def _write_unix_endings(source: Path, target: Path) -> None:
    with source.open("rb") as lines, target.open("wb") as file:
        for line in lines:
            file.write(line[:-2] + b"\n" if line.endswith(b"\r\n") else line)


def _header(file: SourceFile) -> tuple[str, ...]:
    if file.columns:
        return file.columns
    delimiter, quote = _dialect(file)
    text = _first_row(file)
    first = next(csv.reader([text], delimiter=delimiter), []) if quote else text.split(delimiter)
    header = tuple(column.strip() for column in first)
    if len(header) < 2:
        raise DataError(
            f"{file.path}, line 1: expected a header with at least two columns, found "
            f"{', '.join(header) or 'nothing'}"
        )
    names = [column.partition(":")[0] if file.kind == "recbole" else column for column in header]
    for name in names:
        if not name or names.count(name) > 1:
            problem = f"column {name} appears twice" if name else "a column has no name"
            raise DataError(f"{file.path}, line 1: {problem}; give every column its own name")
    return header


def _first_row(file: SourceFile) -> str:
    with file.path.open("rb") as lines:
        first = next(iter(lines.readline().splitlines()), b"")
    try:
        return first.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file.path}, line 1: not UTF-8; save the file as UTF-8") from error


def _dialect(file: SourceFile) -> tuple[str, str]:
    """Delimiter and quote. RecBole and .dat files have no quoting: their quotes are text."""
    if file.kind == "dat":
        return "::", ""
    if file.kind == "recbole":
        return "\t", ""
    first = _first_row(file)
    widths = [len(next(csv.reader([first], delimiter=d), [])) for d in _DELIMITERS]
    return _DELIMITERS[widths.index(max(widths))], '"'


def _encoding(file: SourceFile) -> str:
    """UTF-8, but for .dat files, which MovieLens 1M writes as Latin-1."""
    if file.kind != "dat":
        return "utf-8"
    try:
        with file.path.open(encoding="utf-8") as text:
            while text.read(1 << 20):
                pass
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _recbole_columns(file: SourceFile, names: Mapping[str, str], mixed: bool) -> TextColumns:
    kept, left_out = {}, []
    for header, sql in names.items():
        column, colon, kind = header.rpartition(":")
        if not colon or kind not in ("token", "token_seq", "float", "float_seq"):
            raise DataError(
                f"{file.path}, line 1: found column {header!r}, expected name:type with type "
                "token, token_seq, float or float_seq, as RecBole writes it"
            )
        if kind == "float_seq":
            left_out.append(column)
        else:
            kept[column] = sql
    return TextColumns(kept, tuple(left_out), mixed)


def _sentence(file: SourceFile, error: duckdb.Error) -> str:
    message = str(error)
    line = re.search(r"CSV Error on Line: (\d+)", message)
    place = f"{file.path}, line {line[1]}" if line else str(file.path)
    width = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if width:
        return (
            f"{place}: expected {width[1]} columns, found {width[2]}; put values that contain the "
            "delimiter in double quotes"
            if file.kind == "delimited"
            else f"{place}: expected {width[1]} columns, found {width[2]}"
        )
    if "unicode" in message.lower() or "utf-8" in message.lower():
        return f"{place}: not UTF-8; save the file as UTF-8"
    return f"{place}: not readable as delimited text ({first_line(error)})"
