"""``tacit bench serve``: the real service under load, alone and while deliveries are swapped."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from client.recommend.batch import recommend_all
from client.recommend.opening import open_delivered
from client.recommend.query import Query
from shared.config import Config
from shared.errors import RunError
from simulations.bench.shop import deliver, make_shop

TACIT = Path(sys.executable).parent / "tacit"
HOST = "127.0.0.1"
START_S = 900.0
ANSWER_S = 60.0
IDLE_S = 10.0
LENGTH = 50
WARM_UP = 50
K = 10
NEEDS = ("", "&need=a+light+comedy")


@dataclass(frozen=True)
class ServeRow:
    """One measurement of the service, or of lists for all.

    Attributes:
        what: ``requests``, ``requests with a need``, ``requests while swapping`` or ``batch``.
        items, users: of the organisation.
        rate: requests a second that were sent, whatever the answers did; lists a second in a batch.
        requests: how many.
        p50_ms, p99_ms: from the moment a request was due to its whole answer; None in a batch.
        errors: answers other than 200, and those that never came.
        swaps: deliveries that were put in place meanwhile.
        seconds: of all.
        memory_mib: of the process at the end.
    """

    what: str
    items: int
    users: int
    rate: float
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    errors: int
    swaps: int
    seconds: float
    memory_mib: float


def measure(
    config: Config,
    items: int,
    users: int,
    rate: float,
    seconds: float,
    batch: bool,
    told: Callable[[str], None] = lambda _: None,
) -> list[ServeRow]:
    """Make an organisation, serve it in a process of its own, and send it requests.

    Args:
        config: whose base and model are served.
        items: of the catalogue.
        users: of the organisation; each request is for one of them.
        rate: requests a second.
        seconds: of each measurement.
        batch: whether lists for all users are timed too.
        told: is told what runs next.

    Raises:
        RunError: if the service does not start.
    """
    config = config.model_copy(update={"run": config.run.model_copy(update={"device": "cpu"})})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shop"
        before = os.environ.get("TACIT_CACHE")
        os.environ["TACIT_CACHE"] = str(Path(scratch) / "cache")
        try:
            told(f"Making {items:,} items and {users:,} users")
            make_shop(folder, items, users, LENGTH, config)
            rows = _serve(folder, config, items, users, rate, seconds, told)
            if batch:
                told(f"Lists for {users:,} users")
                rows.append(_batch(folder, items, users))
        finally:
            if before is None:
                del os.environ["TACIT_CACHE"]
            else:
                os.environ["TACIT_CACHE"] = before
        return rows


def _serve(
    folder: Path,
    config: Config,
    items: int,
    users: int,
    rate: float,
    seconds: float,
    told: Callable[[str], None],
) -> list[ServeRow]:
    rows = []
    with _service(folder) as (port, process):
        told("Warming up")
        asyncio.run(_load(port, _paths(users, WARM_UP, ""), rate, []))
        for what, words in zip(("requests", "requests with a need"), NEEDS, strict=True):
            told(f"{what}, {rate:g} a second")
            rows.append(_loaded(what, port, items, users, rate, seconds, words, process))
        told("requests while swapping")
        swaps: list[Callable[[], None]] = [
            _Delivery(folder, config, number) for number in range(2, 2 + int(seconds))
        ]
        row = _loaded(
            "requests while swapping", port, items, users, rate, seconds, "", process, swaps
        )
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _Delivery:
    folder: Path
    config: Config
    number: int

    def __call__(self) -> None:
        deliver(self.folder, self.config, self.number)


def _loaded(
    what: str,
    port: int,
    items: int,
    users: int,
    rate: float,
    seconds: float,
    words: str,
    process: psutil.Process,
    swaps: Sequence[Callable[[], None]] = (),
) -> ServeRow:
    paths = _paths(users, int(rate * seconds), words)
    started = time.perf_counter()
    latencies, errors = asyncio.run(_load(port, paths, rate, swaps))
    spread = np.array(latencies) if latencies else np.full(1, np.nan)
    return ServeRow(
        what=what,
        items=items,
        users=users,
        rate=rate,
        requests=len(paths),
        p50_ms=float(np.percentile(spread, 50) * 1e3),
        p99_ms=float(np.percentile(spread, 99) * 1e3),
        errors=errors,
        swaps=len(swaps),
        seconds=time.perf_counter() - started,
        memory_mib=process.memory_info().rss / 2**20,
    )


def _batch(folder: Path, items: int, users: int) -> ServeRow:
    started = time.perf_counter()
    recommender = open_delivered(folder)
    recommend_all(recommender, Query(k=K), folder.parent / "recs.parquet")
    seconds = time.perf_counter() - started
    memory = psutil.Process().memory_info().rss / 2**20
    return ServeRow(
        "batch", items, users, users / seconds, users, None, None, 0, 0, seconds, memory
    )


def _paths(users: int, count: int, words: str) -> list[str]:
    chosen = np.random.default_rng(0).integers(0, users, count)
    return [f"/v1/users/user-{user}/recommendations?k={K}{words}" for user in chosen]


@contextmanager
def _service(folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = int(probe.getsockname()[1])
    log = folder.parent / "service.log"
    command = [str(TACIT), "client", "serve", str(folder), "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--writer", "templates"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_S
        while not asyncio.run(_answers(port)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the service did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(ANSWER_S)


async def _answers(port: int) -> bool:
    try:
        return await _ask(_Pool(port), "/v1/users/user-0/recommendations")
    except OSError:
        return False


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pool:
    """Connections that are kept open, as many as are in use at once.

    The service closes idle ones after a while; none is used that is near it.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[float, Connection]] = []

    async def take(self) -> "Connection":
        """One that is free, or a new one."""
        while self._free:
            since, (reader, writer) = self._free.pop()
            if time.monotonic() - since < IDLE_S:
                return reader, writer
            writer.close()
        return await asyncio.open_connection(HOST, self.port)

    def give_back(self, connection: "Connection") -> None:
        """For the next request."""
        self._free.append((time.monotonic(), connection))

    def close(self) -> None:
        """All that are free."""
        for _, (_, writer) in self._free:
            writer.close()


async def _load(
    port: int, paths: Sequence[str], rate: float, swaps: Sequence[Callable[[], None]]
) -> tuple[list[float], int]:
    """Send requests at a steady rate, whether or not those before were answered."""
    pool, latencies, errors = _Pool(port), list[float](), 0
    begun = time.perf_counter()

    async def one(number: int, path: str) -> None:
        nonlocal errors
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        try:
            good = await asyncio.wait_for(_ask(pool, path), ANSWER_S)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            good = False
        if good:
            latencies.append(time.perf_counter() - due)
        else:
            errors += 1

    async def swap() -> None:
        for number, put in enumerate(swaps):
            await asyncio.sleep(max(0.0, begun + number - time.perf_counter()))
            await asyncio.to_thread(put)

    await asyncio.gather(swap(), *(one(number, path) for number, path in enumerate(paths)))
    pool.close()
    return latencies, errors


async def _ask(pool: _Pool, path: str) -> bool:
    """Whether the answer is 200; it is read whole. A plain client: a library's costs as much."""
    reader, writer = await pool.take()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {HOST}:{pool.port}\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = head.partition("content-length:")[2].split("\r\n", 1)[0]
    await reader.readexactly(int(length or 0))
    pool.give_back((reader, writer))
    return head.startswith("http/1.1 200")
