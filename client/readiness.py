"""``tacit client check``: everything that could go wrong before an organisation joins."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.directory import key_path, read_policy, read_population
from client.ledger import Ledger, policy_in_force
from client.link import Link, link_outcomes
from client.machine import machine_outcomes
from client.model_check import model_outcomes
from client.outcomes import FAILED, OK, SKIPPED, WARNING, Outcome, judged
from client.own_data import data_outcomes
from client.settings import AgentSettings, SuperLinkSection, settings_path
from client.trust_check import sums_possible
from client.two_users import agent_answers, node_folder, socket_place
from shared.chain import read_sealed
from shared.errors import RunError, TacitError
from shared.keys import SigningKey
from shared.policy import Policy
from shared.words import plural, thousandths_text

# Of a budget; with less left, an operator should think about the next run.
LITTLE_LEFT = 0.1
FILES = (
    "organisation.json",
    "policy.toml",
    "agent.toml",
    "ledger.sqlite",
    "histories.duckdb",
    "keys/organisation.pem",
    "keys/population.secret",
)


@dataclass(frozen=True)
class Scene:
    """What is looked at. Public.

    Attributes:
        directory: of the organisation.
        node: folder of its SuperNode.
        link: to the federation; None where no address is known.
        quick: leave out what takes long: loading the model, asking a remote source.
    """

    directory: Path
    node: Path
    link: Link | None
    quick: bool


def scene(
    directory: Path,
    node: Path,
    superlink: str | None,
    root_certificates: Path | None,
    quick: bool,
) -> Scene:
    """A scene from options of the command line, and from ``agent.toml`` where they are None."""
    told = _told(directory)
    address = superlink or told.address
    roots = root_certificates
    if roots is None and told.root_certificates:
        roots = Path(told.root_certificates)
    link = Link(address, roots or node / "ca.crt") if address else None
    return Scene(directory, node, link, quick)


def _told(directory: Path) -> SuperLinkSection:
    try:
        return AgentSettings.load(settings_path(directory)).superlink
    except TacitError:
        # A check of its own says so.
        return SuperLinkSection()


def outcomes(seen: Scene) -> Iterator[Outcome]:
    """Every check's outcome, as soon as it is known.

    Raises:
        ConfigError: if the address of the SuperLink is none.
    """
    whole = folder(seen.directory)
    yield whole
    if whole.state != FAILED:
        yield from _organisation(seen)
    yield node_folder(seen.directory, seen.node)
    yield from machine_outcomes(seen.directory)
    if seen.link is None:
        yield Outcome(
            "SuperLink",
            SKIPPED,
            "no address is known",
            "give --superlink HOST:PORT --root-certificates ca.crt, or set [superlink] in "
            f"{settings_path(seen.directory)}",
        )
    else:
        yield from link_outcomes(seen.link, seen.node)


def _organisation(seen: Scene) -> Iterator[Outcome]:
    directory = seen.directory
    yield permissions(directory)
    yield judged("policy", lambda: policy_recorded(directory))
    yield judged("ledger", lambda: ledger_sound(directory))
    yield judged("federation", lambda: federation_approved(directory))
    yield judged("secure sums", lambda: sums_possible(directory))
    try:
        settings = AgentSettings.load(settings_path(directory))
    except TacitError as error:
        yield Outcome("settings", FAILED, str(error))
        return
    yield from data_outcomes(directory, settings, seen.quick)
    yield from model_outcomes(directory, settings, seen.quick)
    yield judged("socket", lambda: socket_place(directory, settings))
    yield judged("agent", lambda: agent_answers(directory, settings))


def folder(directory: Path) -> Outcome:
    """Whether every file of an organisation is there."""
    if directory.exists() and not os.access(directory, os.R_OK | os.X_OK):
        return Outcome(
            "folder",
            FAILED,
            f"{directory} belongs to another user",
            "run this as the user of the agent",
        )
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        return Outcome(
            "folder",
            FAILED,
            f"{directory}: has no {', '.join(missing)}",
            "restore them from a copy; an organisation is made by: tacit client init",
        )
    return Outcome("folder", OK, f"{directory} is whole")


def permissions(directory: Path) -> Outcome:
    """Whether only the owner can read the histories and the keys."""
    private = [directory, *(directory / name for name in FILES if name.startswith("keys/"))]
    open_to_others = [path for path in private if path.stat().st_mode & 0o077]
    if open_to_others:
        names = " ".join(map(str, open_to_others))
        return Outcome(
            "permissions",
            FAILED,
            f"other users of this machine can reach {names}",
            f"chmod go= {names}",
        )
    return Outcome("permissions", OK, "only their owner can read the folder and its keys")


def policy_recorded(directory: Path) -> Outcome:
    """Whether the policy is valid and the one on record."""
    policy, recorded = read_policy(directory), _recorded(directory)
    if policy != recorded:
        return Outcome(
            "policy",
            FAILED,
            f"policy.toml is not the policy on record: {policy.differences(recorded)}",
            f"put it on record: tacit policy amend {directory}",
        )
    return Outcome("policy", OK, f"policy {policy.sha256[:12]} is valid and on record")


def ledger_sound(directory: Path) -> Outcome:
    """Whether the ledger opens under the policy on record, and what is left of the budget."""
    policy = _recorded(directory)
    key = SigningKey.load_or_create(key_path(directory))
    with Ledger(directory / "ledger.sqlite", policy, key, read_population(directory)) as ledger:
        spent, records = ledger.spent(), ledger.head().sequence
    budget = policy.budget.epsilon
    if budget is None:
        return Outcome("ledger", WARNING, "the policy has no budget: nothing here is private")
    sentence = (
        f"{plural(records, 'record')}, sound; epsilon {thousandths_text(spent)} of {budget:g} is "
        "spent"
    )
    if spent >= budget:
        return Outcome(
            "ledger",
            FAILED,
            sentence,
            "nothing more fits; a larger budget is a decision of the organisation (tacit policy "
            "amend)",
        )
    if budget - spent < LITTLE_LEFT * budget:
        return Outcome("ledger", WARNING, sentence, "see what fits: tacit audit forecast")
    return Outcome("ledger", OK, sentence)


def federation_approved(directory: Path) -> Outcome:
    """Whether any federation may ask."""
    allowed = read_policy(directory).federations.allowed
    if not allowed:
        return Outcome(
            "federation",
            FAILED,
            "no federation is approved: the agent will refuse every request",
            f"tacit client approve {directory} --federation KEY, with the key that the federation "
            "has told you",
        )
    return Outcome("federation", OK, f"approved: {', '.join(key[:12] for key in allowed)}")


def _recorded(directory: Path) -> Policy:
    stored = read_sealed(directory / "ledger.sqlite")
    if not stored:
        raise RunError(
            f"{directory / 'ledger.sqlite'}: has no record at all; restore it from a copy"
        )
    return policy_in_force(stored)
