"""From a source into the organisation's store, and the store brought up to date, whole or not."""

import json
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from client.data.findings import Findings, findings_of
from client.data.formats import Source
from client.data.ingest import Tables, read_tables
from client.data.interactions import build_histories, settle_unknown_items
from client.data.sources import opened
from client.data.sql import connect
from client.data.store import open_store, read_facts, read_store, write_store
from client.data.tables import Progress
from client.data.watermark import Watermark, keeps_rows, origin_of, time_kind, watermark
from shared.catalogue import Catalogue
from shared.config import DataSection
from shared.histories import PrivateHistories

_ROWS_AT_A_TIME = 100_000


@dataclass(frozen=True)
class Refreshed:
    """What a refresh has changed, in exact figures for the organisation's operator.

    Attributes:
        whole: whether the whole source was read anew, or only what is new.
        new_interactions: in histories now and not before; those of a user whose history has become
            long enough count in full.
        gone_interactions: in histories before and not now.
        new_users: with enough interactions now and not before.
        gone_users: the reverse; they are in no history any more.
        new_items: in the catalogue now and not before.
        gone_items: the reverse.
        short_users: who still have too few interactions.
    """

    whole: bool
    new_interactions: int
    gone_interactions: int
    new_users: int
    gone_users: int
    new_items: int
    gone_items: int
    short_users: int


@dataclass(frozen=True)
class _Written:
    catalogue: Catalogue
    histories: PrivateHistories
    findings: Findings


def import_store(
    path: Path, name: str, options: DataSection, progress: Progress | None = None
) -> Findings:
    """Read a source into a store, whole or not at all; replaces the store that is there.

    Args:
        path: the DuckDB file.
        name: of the organisation.
        options: the source.
        progress: told in words how far it is.

    Raises:
        AssetError, ConfigError, DataError: as ``load_dataset``; then nothing is changed.
    """
    with opened(options) as source:
        return _write_whole(path, name, source, options, progress or _untold).findings


def refresh_store(
    path: Path, options: DataSection, whole: bool = False, progress: Progress | None = None
) -> Refreshed:
    """Bring a store up to date from its source, whole or not at all.

    Files are read anew. Of PostgreSQL and SQLite only the interactions from the newest loaded time
    on are read, unless the number of older rows or of their users has changed, or the settings
    have: then all are. Items are always read anew. Users who are no longer in the source lose their
    history. A refresh can miss only changes among older rows that leave both numbers as they were;
    ``whole`` misses none.

    Args:
        path: a store that ``import_store`` has written.
        options: the source.
        whole: read everything anew.
        progress: told in words how far it is.

    Raises:
        AssetError, ConfigError, DataError: as ``load_dataset``; then nothing is changed.
    """
    told = progress or _untold
    old_catalogue, old = read_store(path)
    facts = read_facts(path)
    with opened(options) as source:
        since = None if whole else watermark(path, facts, source, options)
        written = _write_newer(path, facts["name"], source, options, since, told) if since else None
        whole = written is None
        if written is None:
            written = _write_whole(path, facts["name"], source, options, told)
    new_interactions, gone_interactions = _differences(
        old_catalogue, old, written.catalogue, written.histories
    )
    old_items, items = set(old_catalogue.item_ids), set(written.catalogue.item_ids)
    old_users, users = set(old.user_ids), set(written.histories.user_ids)
    return Refreshed(
        whole=whole,
        new_interactions=new_interactions,
        gone_interactions=gone_interactions,
        new_users=len(users - old_users),
        gone_users=len(old_users - users),
        new_items=len(items - old_items),
        gone_items=len(old_items - items),
        short_users=written.findings.short_users,
    )


def _write_whole(
    path: Path, name: str, source: Source, options: DataSection, progress: Progress
) -> _Written:
    with connect() as connection:
        read = read_tables(connection, source, options, further=False, progress=progress)
        facts = _facts(source, options, read)
        return _write(connection, path, name, source, options, read, facts, progress)


def _write_newer(
    path: Path,
    name: str,
    source: Source,
    options: DataSection,
    since: Watermark,
    progress: Progress,
) -> _Written | None:
    """Write what the store has from before a time and the source after; None if they do not fit."""
    with connect() as connection:
        read = read_tables(
            connection, since.source, options, further=False, progress=progress, may_be_empty=True
        )
        facts = _facts(source, options, read)
        if any(since.facts[name] != value for name, value in facts.items()):
            return None
        _add_earlier(connection, since, read.interactions.rated)
        return _write(connection, path, name, source, options, read, facts, progress)


def _facts(source: Source, options: DataSection, read: Tables) -> dict[str, str]:
    """What must be the same at a later refresh for the rows of this one to be used."""
    return {
        "origin": origin_of(source, options),
        "columns": json.dumps(read.interactions.columns),
        "time_kind": time_kind(read.interactions),
    }


def _add_earlier(connection: duckdb.DuckDBPyConnection, since: Watermark, rated: bool) -> None:
    """Put the stored rows before the new ones, which are counted from 1."""
    fields = "user_id, item_id, time AS stamp" + (", rating" if rated else "")
    query = (
        f"SELECT row - (SELECT max(row) FROM loaded) AS row, {fields} FROM loaded WHERE time < $cut"
    )
    with open_store(since.store) as store:
        earlier = store.sql(query, params={"cut": since.cut}).to_arrow_reader(_ROWS_AT_A_TIME)
        connection.register("earlier", earlier)
        connection.execute("INSERT INTO interactions BY NAME SELECT * FROM earlier")
        connection.unregister("earlier")


def _write(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    name: str,
    source: Source,
    options: DataSection,
    read: Tables,
    facts: dict[str, str],
    progress: Progress,
) -> _Written:
    progress("Ordering histories")
    unknown = settle_unknown_items(connection, read.table, read.interactions, options)
    histories, short = build_histories(
        connection, read.table, read.interactions, options.min_history
    )
    progress("Writing the store")
    rows = None
    if keeps_rows(source) and facts["time_kind"]:
        # Rows read earlier count down from 0.
        first = connection.execute("SELECT min(row) FROM interactions").fetchall()[0][0]
        rating = "rating" if read.interactions.rated else "NULL::FLOAT"
        rows = connection.sql(
            f"SELECT row - $first + 1 AS row, user_id, item_id, {read.interactions.time} AS time, "
            f"{rating} AS rating FROM interactions",
            params={"first": first},
        ).to_arrow_reader(_ROWS_AT_A_TIME)
    figures = {"short_users": json.dumps(short), "unknown_interactions": json.dumps(unknown)}
    write_store(path, name, read.catalogue, histories, facts | figures, rows)
    findings = findings_of(histories, len(read.catalogue), short, unknown)
    return _Written(read.catalogue, histories, findings)


def _differences(
    old_catalogue: Catalogue,
    old: PrivateHistories,
    new_catalogue: Catalogue,
    new: PrivateHistories,
) -> tuple[int, int]:
    """How many interactions are in the new histories alone, and how many in the old alone."""
    users = {name: code for code, name in enumerate({*old.user_ids, *new.user_ids})}
    items = {
        name: code for code, name in enumerate({*old_catalogue.item_ids, *new_catalogue.item_ids})
    }
    with connect() as connection:
        for name, catalogue, histories in (
            ("old", old_catalogue, old),
            ("new", new_catalogue, new),
        ):
            user_codes = np.array([users[user] for user in histories.user_ids], dtype=np.int64)
            item_codes = np.array([items[item] for item in catalogue.item_ids], dtype=np.int64)
            rows = {
                "user": np.repeat(user_codes, histories.lengths),
                "item": item_codes[histories.items],
                "time": histories.times,
            }
            connection.register(name, rows)
        query = "SELECT count(*) FROM (FROM {} EXCEPT ALL FROM {})"
        gained, lost = (
            connection.execute(query.format(*pair)).fetchall()[0][0]
            for pair in (("new", "old"), ("old", "new"))
        )
    return gained, lost


def _untold(_: str) -> None:
    """For callers that follow no progress."""
