"""``tacit bench ingest``: from a source into the organisation's store, in time and memory."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from client.data.imports import import_store, refresh_store
from client.data.sql import connect
from shared.config import DataSection
from shared.errors import RunError

INTERACTIONS_OF_A_USER = 20
ITEMS = 20_000
# The same in DuckDB and in PostgreSQL; steps that are prime to the sizes scatter the rows.
_INTERACTIONS = (
    "SELECT 'user-' || (i * 7919 % {users}) AS user_id, 'item-' || (i * 104729 % {items}) AS "
    "item_id, 1600000000 + i * 48271 % 100000000 AS time, 1 + i % 5 AS rating FROM "
    "generate_series(CAST(1 AS BIGINT), {rows}) AS rows(i)"
)
_ITEMS = (
    "SELECT 'item-' || i AS item_id, 'Title of item ' || i AS title, 'Genre ' || i % 20 AS genres, "
    "'Maker ' || i % 300 AS maker FROM generate_series(0, {last}) AS rows(i)"
)


@dataclass(frozen=True)
class IngestRow:
    """One task with one kind of source.

    Attributes:
        source: ``CSV``, ``Parquet`` or ``PostgreSQL``.
        interactions: that the source holds.
        task: ``import`` into a new store, or ``refresh`` of it that finds nothing new.
        wall_s: seconds from the source to a store on disk.
        cpu_s: seconds of processor time of the process that did it, which other load hardly moves.
        peak_mb: most memory of that process, in MB of 10**6 bytes.
    """

    source: str
    interactions: int
    task: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def measure(interactions: int, postgresql: str, progress: Callable[[str], None]) -> list[IngestRow]:
    """Import and refresh each kind of source, each time in a new process.

    Args:
        interactions: of the made-up source, 20 of each user, of 20,000 items; 1,000 or more.
        postgresql: URL of a server that makes up the rows itself; empty: without PostgreSQL.
        progress: told what is measured.

    Raises:
        RunError: where the system does not tell a process's peak of memory.
        DataError: if the server cannot be reached.
    """
    queries = (
        _INTERACTIONS.format(
            users=interactions // INTERACTIONS_OF_A_USER, items=ITEMS, rows=interactions
        ),
        _ITEMS.format(last=ITEMS - 1),
    )
    with tempfile.TemporaryDirectory(prefix="tacit-bench-") as name:
        folder = Path(name)
        sources = {
            "CSV": _written(folder / "csv", "csv", queries),
            "Parquet": _written(folder / "parquet", "parquet", queries),
        }
        if postgresql:
            sources["PostgreSQL"] = DataSection(
                source=postgresql, interactions_query=queries[0], items_query=queries[1]
            )
        rows = []
        for kind, options in sources.items():
            store = folder / f"{kind}.duckdb"
            for task in (_import, _refresh):
                called = task.__name__.strip("_")
                progress(f"Measuring {called}, {kind}")
                rows.append(IngestRow(kind, interactions, called, *_alone(task, store, options)))
    return rows


def _written(folder: Path, suffix: str, queries: tuple[str, str]) -> DataSection:
    folder.mkdir()
    with connect() as connection:
        for name, query in zip(("interactions", "items"), queries, strict=True):
            connection.sql(query).query(
                "made", f"COPY (FROM made) TO '{folder / name}.{suffix}' (FORMAT {suffix})"
            )
    return DataSection(source=str(folder))


Task = Callable[[Path, DataSection], object]


def _alone(task: Task, store: Path, options: DataSection) -> tuple[float, float, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(_timed, task, store, options).result()


def _timed(task: Task, store: Path, options: DataSection) -> tuple[float, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    task(store, options)
    return time.perf_counter() - wall, time.process_time() - cpu, _peak_mb()


def _import(store: Path, options: DataSection) -> None:
    import_store(store, "bench", options)


def _refresh(store: Path, options: DataSection) -> None:
    refresh_store(store, options)


def _peak_mb() -> float:
    """The process's own peak; what ``getrusage`` tells begins with that of the parent."""
    status = Path("/proc/self/status")
    if not status.is_file():
        raise RunError(f"{status}: this measurement of memory needs Linux")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6
