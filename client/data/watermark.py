"""Where a refresh may begin: the newest time loaded, pushed down into the query of a database."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow

from client.data.formats import Source, SourceQuery
from client.data.interactions import Interactions
from client.data.sql import FLOATS, INTEGERS, quoted
from client.data.store import open_store
from shared.config import DataSection
from shared.errors import DataError

# Databases whose literals and quoting of names are known to be those below.
_SCHEMES = ("postgresql", "postgres", "sqlite")
_YEAR_10000 = 253_402_300_800
_DAY = 86_400


@dataclass(frozen=True)
class Watermark:
    """Rows of the source from a time on, instead of all.

    Attributes:
        store: where the rows before it are.
        cut: seconds since 1970; rows before it come from the store, the others from the source.
        source: the source, with the interactions from ``cut`` on.
        facts: what the store says of how its rows were read.
    """

    store: Path
    cut: int
    source: Source
    facts: Mapping[str, str]


def keeps_rows(source: Source) -> bool:
    """Whether a store keeps all rows of this source, so that a refresh can read what is new."""
    query = source.interactions
    return isinstance(query, SourceQuery) and query.database.scheme in _SCHEMES


def origin_of(source: Source, options: DataSection) -> str:
    """Fingerprint of where interactions come from and how they are read; holds no password."""
    chosen = [options.user_column, options.item_column, options.time_column, options.rating_column]
    query = source.interactions
    sql = query.sql if isinstance(query, SourceQuery) else ""
    return hashlib.sha256(json.dumps([query.place, sql, chosen]).encode()).hexdigest()


def time_kind(interactions: Interactions) -> str:
    """How the source writes times: ``seconds``, ``milliseconds``, a DuckDB type, or empty.

    Empty for text, whose order need not be that of the times.
    """
    kind = interactions.time_type
    if INTEGERS.fullmatch(kind) or FLOATS.fullmatch(kind):
        return "seconds" if interactions.unit == 1.0 else "milliseconds"
    return kind if kind in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE") else ""


def watermark(
    path: Path, facts: Mapping[str, str], source: Source, options: DataSection
) -> Watermark | None:
    """Where a refresh of the store at ``path`` may begin, or None where all must be read.

    All must be read where the source or its settings are others than at the import, its times are
    text, or the rows before the newest loaded time are no longer as many, of as many users.

    Raises:
        DataError: if the store or the source cannot be read.
    """
    query = source.interactions
    if not isinstance(query, SourceQuery) or facts.get("origin") != origin_of(source, options):
        return None
    columns = json.loads(facts["columns"])
    with open_store(path) as store:
        newest = store.execute("SELECT max(time) FROM loaded").fetchall()[0][0]
        cut = _cut(newest, facts["time_kind"])
        if cut is None:
            return None
        counts = "count(*), count(DISTINCT user_id)"
        loaded = store.execute(f"SELECT {counts} FROM loaded WHERE time < $cut", {"cut": cut})
        before = loaded.fetchall()[0]
    moment, name = _literal(cut, facts["time_kind"]), quoted(columns[2])
    rows = f"FROM (\n{query.sql}\n) AS tacit_source WHERE {name}"
    user = quoted(columns[0])
    counted = f"SELECT count(*) AS n, count(DISTINCT {user}) AS users {rows} < {moment}"
    if _figures(query, counted) != before:
        return None
    newer = replace(query, sql=f"SELECT * {rows} >= {moment}")
    return Watermark(path, cut, replace(source, interactions=newer), facts)


def _figures(query: SourceQuery, counted: str) -> tuple[int, int]:
    try:
        found = query.database.read(counted).read_all().to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{query.place}: the older rows cannot be counted ({query.database.lost(error)}); "
            "nothing was changed, run it again"
        ) from None
    return found["n"][0], found["users"][0]


def _cut(newest: float | None, kind: str) -> int | None:
    """The whole second, or day, in which ``newest`` is; it can be written in every kind."""
    if newest is None or not kind or not 0 <= newest < _YEAR_10000:
        return None
    second = math.floor(newest)
    return second - second % _DAY if kind == "DATE" else second


def _literal(cut: int, kind: str) -> str:
    moment = str(np.datetime64(cut, "s")).replace("T", " ")
    return {
        "seconds": str(cut),
        "milliseconds": str(cut * 1000),
        "DATE": f"DATE '{moment[:10]}'",
        "TIMESTAMP": f"TIMESTAMP '{moment}'",
        "TIMESTAMP WITH TIME ZONE": f"TIMESTAMP WITH TIME ZONE '{moment}+00'",
    }[kind]
