"""What the operator of a federation wants to see at a glance: SuperLink, nodes, runs."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.ops.certs import Certificate, check_server_certificate
from server.ops.flower import FlowerRun, Node, answers, nodes, runs
from server.ops.folder import Folder, read_address
from server.ops.submit import flower_numbers
from server.ops.tail import FINISHED, last_event, plain, sentence
from shared.errors import RunError
from shared.keys import SigningKey

UNKNOWN = "unknown"

Planned = tuple[float | None, float | None, str, str, int, int]

NO_PLAN: Planned = (None, None, "", "", 0, 0)


@dataclass(frozen=True)
class Run:
    """A run of this folder, or one that somebody submitted past it.

    Attributes:
        name: of its folder; empty if it has none here.
        flower_run: Flower's number of its newest submission; None if it was never submitted.
        state: in Flower's words; ``unknown`` while the SuperLink is down.
        details: why, where it did not complete.
        epsilon, delta: of its plan; None before there is one, and without noise.
        plan: its hash; empty before there is one.
        aggregation: ``secure``, ``plain``, or empty before there is a plan.
        least_participants, colluders: of a secure sum, by the plan.
        last: its newest event.
    """

    name: str
    flower_run: int | None
    state: str
    details: str
    epsilon: float | None
    delta: float | None
    plan: str
    aggregation: str
    least_participants: int
    colluders: int
    last: dict[str, Any] | None

    @property
    def sums(self) -> str:
        """What the server sees of the organisations, in words; empty before there is a plan."""
        if self.aggregation != "secure":
            return self.aggregation and "the server sees what each organisation sends"
        return (
            f"the server sees only sums of at least {self.least_participants} organisations, with "
            f"up to {self.colluders} of them on its side"
        )


@dataclass(frozen=True)
class Status:
    """Everything that ``tacit server status`` shows.

    Attributes:
        address: of the SuperLink, as seen from its own machine.
        up: whether it answers there under its certificate.
        certificate: of the SuperLink; None where it cannot be used, then ``warnings`` says why.
        warnings: about certificates.
        federation_key: that signs requests; organisations approve it.
        nodes: that are registered; empty while the SuperLink is down.
        runs: by name, those without one first.
    """

    address: str
    up: bool
    certificate: Certificate | None
    warnings: list[str]
    federation_key: str
    nodes: list[Node]
    runs: list[Run]

    def as_json(self) -> dict[str, Any]:
        """For machines. Flower's numbers are text: they need more digits than JSON readers keep."""
        certificate = self.certificate
        return {
            "address": self.address,
            "up": self.up,
            "certificate_ends": None if certificate is None else certificate.ends.isoformat(),
            "warnings": self.warnings,
            "federation_key": self.federation_key,
            "nodes": [
                {"name": n.name, "node": str(n.number), "status": n.status, "changed": n.changed}
                for n in self.nodes
            ],
            "runs": [
                {
                    "name": run.name,
                    "flower_run": None if run.flower_run is None else str(run.flower_run),
                    "state": run.state,
                    "details": run.details,
                    "epsilon": run.epsilon,
                    "delta": run.delta,
                    "plan": run.plan,
                    "aggregation": run.aggregation,
                    "least_participants": run.least_participants,
                    "colluders": run.colluders,
                    "last_event": run.last,
                }
                for run in self.runs
            ],
        }


def status_of(folder: Folder) -> Status:
    """Look at everything; changes nothing.

    Raises:
        RunError: if a file of the folder cannot be read.
        FederationError: if the SuperLink ends while it is asked.
    """
    try:
        certificate, warnings = check_server_certificate(folder, datetime.now(UTC))
    except RunError as error:
        certificate, warnings = None, [str(error)]
    up = answers(folder)
    known = runs(folder) if up else {}
    found = [_run(path, known) for path in folder.runs()]
    ours = {number for path in folder.runs() for number in flower_numbers(path)}
    strange = [
        Run("", run.number, run.status, run.details, *NO_PLAN, None)
        for run in known.values()
        if run.number not in ours
    ]
    return Status(
        read_address(folder),
        up,
        certificate,
        warnings,
        read_federation_key(folder),
        [node for node in nodes(folder) if node.registered] if up else [],
        strange + found,
    )


def read_federation_key(folder: Folder) -> str:
    """Public half of the federation's signing key, 64 hexadecimal digits.

    Raises:
        RunError: if there is none; nothing is made.
    """
    path = folder.server / "server.pem"
    if not path.exists():
        raise RunError(
            f"{path}: the federation's signing key is missing; restore it. Organisations have "
            "approved this key, and would have to approve another one"
        )
    return SigningKey.load_or_create(path).public


def print_status(console: Console, status: Status, name: str) -> None:
    """Show it to a person."""
    state = "up" if status.up else "DOWN; start it with: tacit server start " + name
    _say(console, f"SuperLink       {status.address}, {state}", "" if status.up else "bold red")
    if status.certificate is not None:
        left = status.certificate.days_left(datetime.now(UTC))
        ends = f"{status.certificate.ends:%Y-%m-%d}"
        hosts = ", ".join(status.certificate.hosts)
        _say(console, f"Certificate     until {ends} ({left:.0f} days), for {hosts}")
    for warning in status.warnings:
        _say(console, f"Warning         {warning}", "yellow")
    _say(console, f"Federation key  {status.federation_key}")
    if status.up:
        _nodes(console, status.nodes)
    _runs(console, status.runs)


def _nodes(console: Console, found: list[Node]) -> None:
    if not found:
        _say(console, "No organisation is registered.")
        return
    table = Table("Organisation's node", "Status", "Since", "Flower's number")
    for node in found:
        since = node.changed[:19].replace("T", " ")
        table.add_row(*map(Text, (node.name, node.status, since, str(node.number))))
    console.print(table)


def _runs(console: Console, found: list[Run]) -> None:
    if not found:
        _say(console, "No run was submitted.")
    for run in found:
        number = "" if run.flower_run is None else f" (Flower's run {run.flower_run})"
        _say(console, f"Run {run.name or 'of another origin'}: {run.state}{number}", "bold")
        if run.epsilon is not None:
            plan = f"plan {run.plan[:12]}: epsilon {run.epsilon:g} at delta {run.delta:.2g}"
            _say(console, f"  {plan}; {run.sums}")
        if run.last is not None:
            _say(console, f"  {sentence(run.last)}")
        elif run.details:
            _say(console, f"  {plain(run.details)}")


def _run(directory: Path, known: dict[int, FlowerRun]) -> Run:
    numbers = flower_numbers(directory)
    number = numbers[-1] if numbers else None
    last = last_event(directory)
    flower = known.get(number) if number is not None else None
    if flower is not None:
        state, details = flower.status, flower.details
    elif last is not None and last.get("event") == FINISHED:
        state, details = "finished:completed", ""
    else:
        state, details = UNKNOWN if numbers else "never submitted", ""
    return Run(directory.name, number, state, details, *_plan(directory / "plan.json"), last)


def _plan(path: Path) -> Planned:
    """Epsilon, delta, hash, aggregation, least participants and colluders of a run's plan."""
    if not path.exists():
        return NO_PLAN
    try:
        stored = json.loads(path.read_text())
        plan = json.loads(stored["plan"])
        figures = plan["aggregation"], plan["least_participants"], plan["colluders"]
        return plan["epsilon"], plan["delta"], stored["sha256"], *figures
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as a plan ({error!r})") from error


def _say(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style), soft_wrap=True)
