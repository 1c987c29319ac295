"""``tacit bench deployment``: a federation deployed on this machine, beside the same one simulated.

It goes the operators' path, command by command: certificates, SuperLink, organisations with agents
and SuperNodes, a run. The simulation then trains the same organisations in one process.
"""

import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from pyarrow import compute, parquet

from client.node import free_port
from shared.config import Config
from shared.errors import RunError
from shared.sections import to_toml
from simulations.records import RoundRecord, read_records
from simulations.synth import synthesise
from simulations.variants import plain_sums, with_sections

RUN = "bench"
READY_S = 120.0
RUN_S = 1800.0
END_S = 60.0
POLL_S = 0.1

Report = Callable[[str], None]


@dataclass(frozen=True)
class DeploymentRow:
    """How long one way to run the same federation took.

    Attributes:
        name: ``deployment`` or ``simulation``.
        organisations, users, rounds: of the federation; ``users`` are all of them.
        start_s: from the first command to the first round's beginning: certificates, SuperLink,
            agents and SuperNodes ready, the run submitted, statistics released; in a simulation
            from the command.
        first_round_s: the first round, in which agents load their model.
        round_s: median of the other rounds.
        loopback_bytes: a round over this machine's loopback, all processes together; 0 where
            nothing crosses it.
    """

    name: str
    organisations: int
    users: int
    rounds: int
    start_s: float
    first_round_s: float
    round_s: float
    loopback_bytes: int


def measure(
    config: Config, organisations: int, users: int, items: int, rounds: int, report: Report
) -> list[DeploymentRow]:
    """Run both and time their rounds.

    Args:
        config: base, model, privacy and server; its data and partition are not used.
        organisations, users, items: of generated data; ``users`` are those of all organisations.
        rounds: of each federation.
        report: told what is being done.

    Raises:
        RunError: if a command fails; says which, and how.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-") as scratch:
        root = Path(scratch)
        report("Generating histories")
        synthesise(users, items, organisations, config.run.seed, root / "data")
        federation = _configured(config, organisations, rounds, root / "data")
        path = root / "run.toml"
        path.write_text(to_toml(federation))
        deployed = _deployed(root, path, organisations, users, rounds, report)
        report("Simulating the same federation")
        return [deployed, _simulated(root, path, organisations, users, rounds)]


def _configured(config: Config, organisations: int, rounds: int, data: Path) -> Config:
    return with_sections(
        config,
        data={"source": str(data)},
        partition={"organisations": organisations, "scheme": "column:organisation"},
        training={"rounds": rounds},
        evaluation={"every_rounds": 0},
        run={"noise_free_twin": False, "examples": 0},
        # What the policies of tacit client init allow.
        **plain_sums(config),
    )


def _deployed(
    root: Path, config: Path, organisations: int, users: int, rounds: int, report: Report
) -> DeploymentRow:
    federation, port = root / "federation", free_port()
    started = time.monotonic()
    with ExitStack() as running:
        said = _tacit("server", "certs", str(federation), "--host", "127.0.0.1")
        key = _found(r"\b[0-9a-f]{64}\b", said)
        address = f"127.0.0.1:{port}"
        start = ("server", "start", str(federation), "--host", "127.0.0.1", "--port", str(port))
        log = root / "superlink.log"
        running.enter_context(_process(log, *start))
        _wait_for(lambda: _listens(port), "the SuperLink", log)
        for number in range(1, organisations + 1):
            report(f"Starting organisation {number} of {organisations}")
            home = _organisation(root, number, key)
            node = home.with_name(home.name + "-node")
            _tacit("server", "register", str(federation), str(node / "key.pub"))
            log = root / f"agent{number}.log"
            running.enter_context(_process(log, "client", "agent", str(home)))
            _wait_for((node / "agent.sock").exists, f"the agent of {home}", log)
            certificate = str(federation / "tls" / "ca.crt")
            join = ("client", "node", str(node), "--superlink", address)
            running.enter_context(
                _process(root / f"node{number}.log", *join, "--root-certificates", certificate)
            )
        report("Running the deployed federation")
        run = ("server", "run", str(federation), "--config", str(config), "--name", RUN)
        running.enter_context(_process(root / "run.log", *run))
        times, sent = _followed(federation / "runs" / RUN / "progress.jsonl", rounds, root)
    return DeploymentRow(
        "deployment",
        organisations,
        users,
        rounds,
        times[0][0] - started - times[0][1],
        times[0][1],
        statistics.median(seconds for _, seconds in times[1:]),
        sent // max(1, rounds - 1),
    )


def _organisation(root: Path, number: int, key: str) -> Path:
    """What the operator of an organisation does before its agent starts."""
    data = root / f"data{number}"
    data.mkdir()
    rows = parquet.read_table(root / "data" / "interactions.parquet")
    names = sorted(set(rows["organisation"].to_pylist()))
    own = rows.filter(compute.equal(rows["organisation"], names[number - 1]))
    parquet.write_table(own.drop(["organisation"]), data / "interactions.parquet")
    users = str(len(set(own["user"].to_pylist())))
    (data / "items.parquet").symlink_to(root / "data" / "items.parquet")
    home = root / f"org{number}"
    named = ("--name", f"org-{number}", "--data", str(data))
    _tacit("client", "init", str(home), *named, "--users", users)
    _tacit("client", "approve", str(home), "--federation", key)
    return home


def _followed(path: Path, rounds: int, root: Path) -> tuple[list[tuple[float, float]], int]:
    """When each round ended and how long it took, and the bytes between first and last."""
    found: list[tuple[float, float]] = []
    before = after = 0
    finished = False
    deadline = time.monotonic() + RUN_S
    read = 0
    while not finished:
        if time.monotonic() > deadline:
            raise RunError(f"the deployed run did not end within {RUN_S:g} s")
        lines = path.read_text().splitlines() if path.exists() else []
        for line in lines[read:]:
            event = json.loads(line)
            if event["event"] == "round":
                found.append((time.monotonic(), float(event["seconds"])))
                after = _loopback_bytes()
                before = before or after
            if event["event"] == "failed":
                raise RunError(f"the deployed run failed: {event['reason']}")
            finished = event["event"] == "finished"
        read = len(lines)
        time.sleep(POLL_S)
    if len(found) != rounds:
        raise RunError(f"the deployed run had {len(found)} rounds, {rounds} were asked for")
    return found, after - before


def _simulated(
    root: Path, config: Path, organisations: int, users: int, rounds: int
) -> DeploymentRow:
    directory = root / "simulated"
    started = time.time()
    _tacit("simulate", "--config", str(config), "--out", str(directory))
    records = [r for r in read_records(directory / "metrics.jsonl") if isinstance(r, RoundRecord)]
    ended = (directory / "metrics.jsonl").stat().st_mtime
    seconds = [record.seconds for record in records]
    return DeploymentRow(
        "simulation",
        organisations,
        users,
        rounds,
        ended - started - sum(seconds),
        seconds[0],
        statistics.median(seconds[1:]),
        0,
    )


def _command() -> str:
    return str(Path(sys.executable).with_name("tacit"))


def _tacit(*arguments: str) -> str:
    """Run a command to its end and return what it said.

    Raises:
        RunError: if it fails; with what it said.
    """
    done = subprocess.run(
        [_command(), *arguments], capture_output=True, text=True, timeout=RUN_S, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise RunError(f"tacit {' '.join(arguments)}: ended with {done.returncode}: {said}")
    return done.stdout


@contextmanager
def _process(log: Path, *arguments: str) -> Iterator[None]:
    """A command that runs until the block ends."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [_command(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "200"},
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(ready: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while not ready():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()[-2000:]
            raise RunError(f"{what} was not ready within {READY_S:g} s: {said}")
        time.sleep(POLL_S)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RunError(f"nothing like {pattern} in: {text[-500:]}")
    return match.group()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _loopback_bytes() -> int:
    return int(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)
