"""Making an organisation: its folder and its SuperNode's, whole or not at all."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from client.data.address import is_address
from client.data.findings import Findings
from client.data.formats import recognise
from client.data.imports import import_store
from client.data.store import read_store
from client.data.tables import Progress
from client.directory import key_path, population_of
from client.ledger import Ledger
from client.node import refuse_unusable
from client.node_key import create_node_key
from client.own_data import STORE
from client.settings import AgentSettings, node_directory, settings_path, socket_path
from shared.config import DataSection, PrivacySection, apply_override
from shared.errors import ConfigError, RunError
from shared.files import write_json
from shared.keys import SigningKey
from shared.plan import stated_delta
from shared.policy import Policy
from shared.sections import Section, sentence, to_toml

OWNER_ONLY = 0o700
# Settings that may name a file or folder of this machine.
PATHS = (("data", "source"), ("base", "name"), ("base", "warm_start"))


@dataclass(frozen=True)
class Wishes:
    """What the operator has chosen. Public.

    Attributes:
        directory: of the organisation; must not exist, or be empty.
        node: folder of the SuperNode; the same.
        name: of the organisation.
        settings: its ``agent.toml``.
    """

    directory: Path
    node: Path
    name: str
    settings: AgentSettings


def wishes(
    directory: Path,
    node: Path | None,
    name: str,
    named: Mapping[str, Any],
    overrides: Sequence[str],
) -> Wishes:
    """Settings from options of the command line, with paths that hold from any folder.

    Args:
        directory: of the organisation.
        node: folder of the SuperNode; None for the one beside ``directory``.
        name: of the organisation.
        named: ``{"section.key": value}``.
        overrides: of the form ``section.key=value``; they win.

    Raises:
        ConfigError: for an unknown key or a bad value.
    """
    directory = directory.resolve()
    beside = node_directory(directory)
    node = beside if node is None else node.resolve()
    values: dict[str, Any] = {}
    for dotted, value in named.items():
        section, _, key = dotted.partition(".")
        values.setdefault(section, {})[key] = value
    for override in overrides:
        apply_override(values, override)
    for section, key in PATHS:
        given = values.get(section, {}).get(key)
        if isinstance(given, str) and given and Path(given).expanduser().exists():
            values[section][key] = str(Path(given).expanduser().resolve())
    if node != beside:
        values.setdefault("agent", {}).setdefault("socket", str(node / "agent.sock"))
    if values.get("agent", {}).get("socket"):
        values["agent"]["socket"] = str(Path(str(values["agent"]["socket"])).absolute())
    try:
        settings = AgentSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"agent.toml: {sentence(error, AgentSettings)}") from error
    refuse_unusable(socket_path(directory, settings))
    return Wishes(directory, node, name, settings)


def default_policy(
    name: str,
    users: int,
    epsilon: float,
    delta: float | None,
    base_sha256: str,
    rules: Mapping[str, Any] | None = None,
) -> Policy:
    """A policy with safe defaults, which allows one base model and no federation yet.

    Args:
        name: of the organisation.
        users: size that it declares; public.
        epsilon: budget, for ever.
        delta: at which; None takes ``users ** -1.1``.
        base_sha256: hash of the base model's weights.
        rules: further ones by section, such as those of secure sums.

    Raises:
        PrivacyError: for values that make no policy.
    """
    chosen = float(f"{stated_delta(PrivacySection(), users):.3g}") if delta is None else delta
    return Policy.from_values(
        {
            "organisation": {"name": name, "declared_users": users},
            "budget": {"epsilon": epsilon, "delta": chosen},
            "model": {"allowed_bases": (base_sha256,)},
            **(rules or {}),
        },
        "tacit client init",
    )


def make_organisation(
    wished: Wishes, policy_of: Callable[[Findings], Policy], progress: Progress
) -> Policy:
    """Read the data, then write both folders; when anything fails, neither is there.

    Args:
        wished: what was chosen.
        policy_of: asked once the data is read; may ask a person.
        progress: told in words how far it is.

    Raises:
        RunError: if a folder exists already or cannot be made.
        TacitError: if the data or the policy cannot be used.
    """
    with new_folders(wished.directory, wished.node) as (directory, node):
        store = directory / STORE
        policy = policy_of(import_store(store, wished.name, wished.settings.data, progress))
        _write(directory / "policy.toml", policy)
        _write(settings_path(directory), wished.settings)
        (directory / "keys").mkdir(mode=OWNER_ONLY)
        create_node_key(node, policy.organisation.name)
        key = SigningKey.load_or_create(key_path(directory))
        population = population_of(directory, read_store(store)[1])
        # The opening record stands before anybody can ask.
        Ledger(directory / "ledger.sqlite", policy, key, population, purpose="federation").close()
        write_json(directory / "organisation.json", {"number": 0, "population": population})
    return policy


def notices(options: DataSection) -> tuple[str, ...]:
    """Sentences that a person must see who uses a data source, such as its licence.

    Raises:
        TacitError: if its files cannot be found.
    """
    if any(map(is_address, (options.source, options.interactions, options.items))):
        return ()
    return recognise(options).notices


@contextmanager
def new_folders(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Hidden folders beside ``paths``, all of which take their places when the block ends well.

    Raises:
        RunError: if one of ``paths`` holds something, or cannot be made.
    """
    for path in paths:
        refuse_taken(path)
    made: list[Path] = []
    try:
        for path in paths:
            hidden = path.with_name(f".{path.name}.part")
            _make(hidden)
            made.append(hidden)
        hidden_ones = tuple(made)
        yield hidden_ones
        for hidden, path in zip(hidden_ones, paths, strict=True):
            hidden.rename(path)
            made.append(path)
        made.clear()
    except OSError as error:
        raise RunError(
            f"{', '.join(map(str, paths))}: cannot be made ({error}); check that the folder above "
            "exists and may be written, and that none of them is a mount point itself"
        ) from error
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


def refuse_taken(path: Path) -> None:
    """Refuse a path at which there is something else than an empty folder.

    Raises:
        RunError: says so.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{path}: is there already; an organisation is made once, give another folder or "
            "remove this one (a ledger that was removed is a budget that nobody can account for)"
        )


def _make(hidden: Path) -> None:
    try:
        hidden.mkdir(mode=OWNER_ONLY)
    except FileExistsError as error:
        raise RunError(
            f"{hidden}: was left by another tacit client init, which is running or was killed; "
            "remove it when none is running"
        ) from error


def _write(path: Path, tables: Section) -> None:
    path.write_text(to_toml(tables, above=True))
    path.chmod(0o600)
