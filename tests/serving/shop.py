"""A made-up organisation of films that has taken part in a run, and its service in this process."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import uvicorn
from safetensors.numpy import load_file, save_file

from client.data.store import write_store
from client.directory import population_of
from client.gate import Gate
from client.organisation import Organisation
from client.serving.access import Access
from client.serving.command import service
from client.serving.language import Load
from shared import messages
from shared.catalogue import Catalogue
from shared.files import atomic_path, write_json
from shared.histories import PrivateHistories
from shared.policy import Policy
from shared.sections import to_toml
from shared.settings import shared_settings
from tests.agent.house import House, Server

Arrays = dict[str, npt.NDArray[Any]]

FILMS, USERS = 60, 14
GENRES = ("Comedy", "Drama", "Horror", "Romance", "Science Fiction")
WORDS = ("Harbour", "Winter", "Silver", "Lantern", "Orchard", "Comet", "Garden", "Iron", "Paper")
EVIL = '<script>window.hacked=1</script><img src=x onerror="window.hacked=2">'
# Of the user whose whole name needs quoting in a path.
SLASHED = "shop/7 ü"
SOON_S = 60.0

CONVERSATION = (
    (messages.JOIN, 0),
    (messages.PLAN, 0),
    (messages.POPULARITY, 0),
    (messages.COOCCURRENCE, 0),
    (messages.DELIVER_STATISTICS, 0),
    (messages.TRAIN, 1),
    (messages.TRAIN, 2),
    (messages.DELIVER_ADAPTER, 2),
)


def catalogue() -> Catalogue:
    titles = [f"{WORDS[place % 9]} {WORDS[(place // 9 + 1) % 9]} {place}" for place in range(FILMS)]
    titles[5] = EVIL
    return Catalogue(
        tuple(f"film/{place}" if place == 3 else f"film-{place}" for place in range(FILMS)),
        tuple(titles),
        {
            "year": tuple(str(1960 + place) for place in range(FILMS)),
            "genres": tuple(
                f"{GENRES[place % 5]}, {GENRES[(place + 2) % 5]}" for place in range(FILMS)
            ),
        },
    )


def histories() -> PrivateHistories:
    random = np.random.default_rng(5)
    rows = [random.choice(FILMS, 3 + user, replace=False) for user in range(USERS)]
    # Whoever looks at the first user sees the evil title in the history.
    rows[0][-1] = 5
    lengths = [len(row) for row in rows]
    names = [f"user-{place}" for place in range(USERS)]
    names[7] = SLASHED
    ratings = random.integers(1, 6, sum(lengths)).astype(np.float32)
    ratings[1] = np.nan
    return PrivateHistories(
        tuple(names),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(rows).astype(np.int64),
        np.concatenate([1.6e9 + 86_400.0 * 40 * np.arange(n) for n in lengths]),
        ratings,
    )


def statistics(favourite: int | None = None) -> Arrays:
    """Delivered statistics; ``favourite`` is far more popular than everything else."""
    keys = catalogue().key_hashes
    random = np.random.default_rng(2)
    log_popularity = np.log(np.linspace(1.0, 9.0, FILMS))
    if favourite is not None:
        log_popularity[favourite] = 40.0
    transition = random.random((30, 30))
    return {
        "keys": keys,
        "log_popularity": log_popularity,
        "top": np.arange(30),
        "transition": transition + transition.T,
        "floor": np.array([-2.0]),
    }


@dataclass
class Shop(House):
    """An organisation of films."""

    def write(self, rows: Sequence[Sequence[int]] = ()) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_store(self.directory / "histories.duckdb", "Shop", catalogue(), histories())
        policy = Policy.from_values(self.values, "test")
        (self.directory / "policy.toml").write_text(to_toml(policy, above=True))
        (self.directory / "agent.toml").write_text(to_toml(self.settings, above=True))
        people = population_of(self.directory, histories())
        write_json(self.directory / "organisation.json", {"number": 0, "population": people})

    def take_part(self, server: Server) -> None:
        """A run of the server's, as far as the first delivery of an adapter; and a refusal."""
        with closing(Organisation(self.directory)) as organisation:
            gate = Gate(organisation)
            for kind, round_number in CONVERSATION:
                arrays = statistics() if kind == messages.DELIVER_STATISTICS else None
                if kind == messages.COOCCURRENCE:
                    arrays = {"keys": catalogue().key_hashes[:30]}
                gate.ask(kind, server.request(kind, round_number, arrays))

    def deliver(self, favourite: int) -> None:
        """Replace the statistics, as an agent does."""
        path = self.directory / "delivered" / "statistics.safetensors"
        with atomic_path(path) as temporary:
            save_file(statistics(favourite), temporary)

    @property
    def adapter(self) -> Path:
        return self.directory / "delivered" / "adapter" / "adapter_model.safetensors"

    def adapter_arrays(self) -> Arrays:
        return dict(load_file(self.adapter))

    def deliver_adapter(self, arrays: Arrays) -> None:
        with atomic_path(self.adapter) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)

    def forget_delivery(self) -> None:
        for path in sorted((self.directory / "delivered").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def shop_values(server: Server) -> dict[str, dict[str, Any]]:
    """The policy of a shop that lets the server ask."""
    return {
        "organisation": {"name": "Shop", "declared_users": 20},
        "budget": {"epsilon": 8.0, "delta": 1e-4, "evaluation_share": 1.0},
        "mechanism": {"least_noise_multiplier": 0.0, "most_steps_per_run": 3},
        "federations": {"allowed": (server.key.public,)},
    }


def settings_text(server: Server) -> str:
    return shared_settings(server.config)


@contextmanager
def running(
    directory: Path,
    access: Access | None = None,
    load: Load | None = None,
    look_every_s: float = 0.05,
) -> Iterator[str]:
    """A real server over a folder, in a thread of this process; gives its address."""
    config = uvicorn.Config(
        service(directory, access or Access(None), load, look_every_s),
        host="127.0.0.1",
        port=0,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + SOON_S
        while not server.started:
            assert thread.is_alive(), "the server has ended"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(SOON_S)


def until(what: Any, described: str) -> None:
    """Wait for ``what()`` to become true."""
    deadline = time.monotonic() + SOON_S
    while not what():
        assert time.monotonic() < deadline, f"did not come: {described}"
        time.sleep(0.02)


def metric(client: httpx.Client, line: str) -> float:
    """A value of ``/metrics``; 0 where the line is not there."""
    for found in client.get("/metrics").text.splitlines():
        if found.startswith(f"{line} "):
            return float(found.split()[-1])
    return 0.0
