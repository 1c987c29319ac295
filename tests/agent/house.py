"""An organisation's folder over a tiny base, a server that signs, and agents in other processes."""

import dataclasses
import multiprocessing
import os
import runpy
import signal
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from client.courier import SocketAgent
from client.data.store import write_store
from client.directory import key_path, population_of
from client.ledger import amended
from client.settings import AgentSettings, socket_path
from shared import messages
from shared.catalogue import Catalogue
from shared.chain import Record, chain_faults, read_sealed
from shared.config import Config
from shared.entries import Intent, Refusal, Release, parse_entry
from shared.files import write_json
from shared.histories import PrivateHistories
from shared.keys import SigningKey
from shared.messages import Reply, Request, pack_delivery, pack_request, signed, unpack_reply
from shared.models import LoadedModel
from shared.plan import PrivacyPlan
from shared.policy import Policy
from shared.sections import to_toml
from shared.settings import shared_settings
from shared.wire import Parcel, from_records, to_records

Arrays = dict[str, npt.NDArray[Any]]

ITEMS = 40
DECLARED = 20
ROWS: tuple[tuple[int, ...], ...] = (
    (0, 1, 2, 3),
    (3, 2, 1, 4, 5),
    (7, 7, 8),
    (9,),
    (10, 11, 12, 13, 14, 15),
)
SERVING = Path(__file__).with_name("serving.py")
READY_S = 60.0

# A round of everything, in the order of a run.
CONVERSATION = (
    (messages.JOIN, 0),
    (messages.PLAN, 0),
    (messages.POPULARITY, 0),
    (messages.COOCCURRENCE, 0),
    (messages.DELIVER_STATISTICS, 0),
    (messages.TRAIN, 1),
    (messages.DELIVER_ADAPTER, 3),
    (messages.EVALUATE, 4),
)
NOISED = (messages.POPULARITY, messages.COOCCURRENCE, messages.TRAIN, messages.EVALUATE)


def catalogue() -> Catalogue:
    names = tuple(f"item {place}" for place in range(ITEMS))
    return Catalogue(names, names, {})


def histories(rows: Sequence[Sequence[int]] = ROWS) -> PrivateHistories:
    lengths = [len(row) for row in rows]
    return PrivateHistories(
        user_ids=tuple(f"user-{place}" for place in range(len(rows))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in row], dtype=np.int64),
        times=np.array([float(t) for n in lengths for t in range(n)]),
    )


@dataclass
class Server:
    """A federation's server, as far as agents can tell.

    Attributes:
        config: of its run.
        plan: of its run.
        loaded: the model that its run trains.
        key: signs its requests.
    """

    config: Config
    plan: PrivacyPlan
    loaded: LoadedModel
    key: SigningKey

    def other(self, key: SigningKey) -> "Server":
        return dataclasses.replace(self, key=key)

    def unsigned(
        self, kind: str, round_number: int = 0, arrays: Arrays | None = None, **changed: Any
    ) -> Request:
        request = Request(
            "run",
            round_number,
            self.plan,
            self.loaded.sha256,
            self.arrays_for(kind) if arrays is None else arrays,
            federation=self.key.public,
            settings=shared_settings(self.config),
        )
        return dataclasses.replace(request, **changed)

    def request(
        self, kind: str, round_number: int = 0, arrays: Arrays | None = None, **changed: Any
    ) -> Parcel:
        """A signed request, as it arrives."""
        return parcel(signed(kind, self.unsigned(kind, round_number, arrays, **changed), self.key))

    def arrays_for(self, kind: str) -> Arrays:
        """What an honest request of this kind carries."""
        keys = catalogue().key_hashes
        return {
            messages.COOCCURRENCE: {"keys": keys[:5]},
            messages.TRAIN: self.adapter(),
            messages.DELIVER_STATISTICS: statistics(),
            messages.DELIVER_ADAPTER: dict(pack_delivery(self.adapter(), 1.0)),
        }.get(kind, {})

    def adapter(self) -> Arrays:
        random = np.random.default_rng(3)
        return {
            name: random.normal(0.0, 0.1, value.shape).astype(np.float32)
            for name, value in self.loaded.initial.items()
        }


def statistics(**changed: npt.NDArray[Any]) -> Arrays:
    """Delivered statistics, with some arrays changed."""
    keys = catalogue().key_hashes
    return {
        "keys": keys,
        "log_popularity": np.linspace(-1.0, 1.0, len(keys)),
        "top": np.arange(3),
        "transition": np.zeros((3, 3)),
        "floor": np.array([-2.0]),
    } | changed


def parcel(request: Request) -> Parcel:
    return from_records(pack_request(request), "request")


def reply_of(answer: Parcel) -> Reply:
    return unpack_reply(to_records(answer, "reply"), 0)


@dataclass
class House:
    """An organisation's folder.

    Attributes:
        directory: of the organisation.
        values: its policy, by section.
        own: its ``agent.toml``, by section.
    """

    directory: Path
    values: dict[str, dict[str, Any]]
    own: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, rows: Sequence[Sequence[int]] = ROWS) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.write_rows(rows)
        policy = Policy.from_values(self.values, "test")
        (self.directory / "policy.toml").write_text(to_toml(policy, above=True))
        (self.directory / "agent.toml").write_text(to_toml(self.settings, above=True))
        people = population_of(self.directory, histories(rows))
        write_json(self.directory / "organisation.json", {"number": 0, "population": people})

    def write_rows(self, rows: Sequence[Sequence[int]]) -> None:
        write_store(self.directory / "histories.duckdb", "house", catalogue(), histories(rows))

    @property
    def settings(self) -> AgentSettings:
        return AgentSettings.model_validate(self.own)

    @property
    def socket(self) -> Path:
        return socket_path(self.directory, self.settings)

    def amend(self, **sections: Mapping[str, Any]) -> None:
        """Put another policy on record and in the file, as ``tacit client approve`` does."""
        for name, table in sections.items():
            self.values[name] = self.values.get(name, {}) | dict(table)
        policy = Policy.from_values(self.values, "test")
        key = SigningKey.load_or_create(key_path(self.directory))
        people = population_of(self.directory, histories())
        amended(self.directory / "ledger.sqlite", policy, key, people)
        (self.directory / "policy.toml").write_text(to_toml(policy, above=True))

    def entries(self, kind: type[Any]) -> list[Any]:
        """Entries of the ledger of one class, read from the file as an outsider does."""
        stored = read_sealed(self.directory / "ledger.sqlite")
        assert chain_faults(stored) == []
        found = (parse_entry(Record.parse(sealed.text)) for sealed in stored)
        return [entry for entry in found if isinstance(entry, kind)]

    def intents(self) -> list[Intent]:
        return self.entries(Intent)

    def releases(self) -> list[Release]:
        return [release for release in self.entries(Release) if release.mechanism != "none"]

    def refusals(self) -> list[Refusal]:
        return self.entries(Refusal)

    def rules(self) -> list[str]:
        return [refusal.rule for refusal in self.refusals()]

    def size_bytes(self) -> int:
        """What the ledger takes on disk."""
        return sum(p.stat().st_size for p in self.directory.glob("ledger.sqlite*"))

    def computed(self) -> int:
        """How often a process of ``serving.py`` has summed the popularity."""
        path = self.directory / "computed"
        return path.stat().st_size if path.exists() else 0

    def log(self) -> str:
        return (self.directory / "agent.log").read_text(errors="replace")

    def access(self, timeout_s: float = 120.0) -> SocketAgent:
        return SocketAgent(self.socket, timeout_s)

    def http(self, timeout_s: float = 60.0) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://agent", timeout=timeout_s)

    def start(self, failpoint: str = "") -> BaseProcess:
        """Start an agent in a process of its own, without waiting for it."""
        values = {"directory": str(self.directory), "failpoint": failpoint}
        process = _context().Process(target=runpy.run_path, args=(str(SERVING), values, "__main__"))
        process.start()
        return process

    @contextmanager
    def agent(self, failpoint: str = "") -> Iterator[BaseProcess]:
        """A running agent; ended by force unless the test has ended it."""
        process = self.start(failpoint)
        try:
            self.wait_until_ready(process)
            yield process
        finally:
            if process.is_alive():
                process.kill()
            process.join(30)

    def wait_until_ready(self, process: BaseProcess) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert process.is_alive(), self.log()
            try:
                with self.http() as client:
                    if client.get("/v1/health").json()["ready"]:
                        return
            except httpx.HTTPError:
                time.sleep(0.02)
        raise AssertionError(f"the agent does not answer: {self.log()}")


def _context() -> multiprocessing.context.ForkServerContext:
    """Processes from one clean server that has the agent's modules loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["client.service", "transformers.models.bert.modeling_bert"])
    return context


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def terminate(process: BaseProcess, within_s: float = 30.0) -> int | None:
    """Ask a process to end; its exit code, or None if it did not."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join(within_s)
    return process.exitcode
