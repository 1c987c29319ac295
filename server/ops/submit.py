"""Submits a run: its folder, the app that Flower sends to the nodes, a new run or an old one."""

import importlib.util
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomlkit

from server.ops.flower import ONLINE, flwr, flwr_line, nodes, runs
from server.ops.folder import CONNECTION, Folder
from server.ops.tail import FINISHED, last_event
from shared.config import Config, load_config, to_run_config
from shared.errors import ConfigError, FederationError, RunError
from shared.files import atomic_path, write_json
from shared.sections import to_toml

Say = Callable[[str], None]

PACKAGES = ("client", "server", "shared")
NODE_POLL_S = 1.0


def submit(folder: Folder, config: Config, name: str, wait_s: float, say: Say) -> int:
    """Start a new run.

    Args:
        folder: of the federation.
        config: of the run; ``partition.organisations`` is how many must be online.
        name: of the run's folder.
        wait_s: for organisations that are not online.
        say: takes lines for the operator.

    Returns:
        Flower's number of the run.

    Raises:
        ConfigError: if the configuration makes sense in a simulation only.
        RunError: if there is a run of that name, or another is going on.
        FederationError: if too few organisations are online, or the SuperLink does not answer.
    """
    directory = folder.run(name)
    if directory.exists():
        raise RunError(
            f"{directory}: exists; choose another --name, or go on with it by: tacit server run "
            f"{folder.root} --resume {name}"
        )
    config = _deployable(config)
    _refuse_second(folder)
    wait_for_nodes(folder, config.partition.organisations, wait_s, say)
    with atomic_path(directory / "config.toml") as temporary:
        temporary.write_text(to_toml(config))
    return _send(folder, directory, config, say)


def resume(folder: Folder, name: str, wait_s: float, say: Say) -> int:
    """Go on with a run that was cut off, under its own configuration and name.

    No organisation spends twice: the requests are those that it has answered before.

    Raises:
        RunError: if there is no such run, nothing of it to go on from, or it is going or done.
        FederationError: as ``submit``.
    """
    directory = folder.run(name)
    if not (directory / "config.toml").exists():
        known = ", ".join(path.name for path in folder.runs()) or "none"
        raise RunError(f"{folder.root}: has no run {name!r}; it has: {known}")
    last = last_event(directory)
    if last is not None and last.get("event") == FINISHED:
        raise RunError(f"{name}: has finished; what came of it is in {directory}")
    if not (directory / "plan.json").exists():
        raise RunError(
            f"{name}: ended before it had a plan, so there is nothing to go on from; start a new "
            f"run with: tacit server run {folder.root} --config {directory / 'config.toml'}"
        )
    _refuse_second(folder)
    config = load_config(directory / "config.toml")
    # As the ServerApp does: who is away now may come back during the run.
    wait_for_nodes(folder, config.server.min_replies, wait_s, say)
    return _send(folder, directory, config, say)


def wait_for_nodes(folder: Folder, expected: int, wait_s: float, say: Say) -> None:
    """Block until so many SuperNodes are online, saying which are not.

    Raises:
        FederationError: after ``wait_s``, or if the SuperLink does not answer.
    """
    deadline = time.monotonic() + wait_s
    told = ""
    while True:
        found = [node for node in nodes(folder) if node.registered]
        online = sum(node.status == ONLINE for node in found)
        if online >= expected:
            say(f"{online} organisations are online and will be asked; {expected} are needed.")
            return
        missing = ", ".join(f"{n.label} ({n.status})" for n in found if n.status != ONLINE)
        state = f"{online} of {expected} organisations are online; " + (
            f"not online: {missing}" if missing else f"only {len(found)} are registered"
        )
        if time.monotonic() > deadline:
            raise FederationError(
                f"{state}. Start their SuperNodes, or set how many take part with --orgs, or wait "
                f"longer than {wait_s:g} s with --wait"
            )
        if state != told:
            say(f"{state}; waiting")
            told = state
        time.sleep(NODE_POLL_S)


def flower_numbers(directory: Path) -> list[int]:
    """Flower's numbers of a run: one for each time that it was submitted.

    Raises:
        RunError: if the folder's record cannot be read.
    """
    path = directory / "status.json"
    if not path.exists():
        return []
    try:
        return [int(each["flower_run"]) for each in json.loads(path.read_text())["submissions"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read as the record of a run ({error!r})") from error


def build_app(folder: Folder, directory: Path, config: Config) -> Path:
    """Write the Flower app of a run: the packages as installed here, and its whole configuration.

    Flower sends it to every node; there it is the courier between the node and the agent.
    """
    app = directory / "app"
    if app.exists():
        shutil.rmtree(app)
    for package in PACKAGES:
        shutil.copytree(_source(package), app / package, ignore=_all_but_python)
    values: dict[str, dict[str, Any]] = {}
    for dotted, value in to_run_config(config).items():
        section, _, key = dotted.partition(".")
        values.setdefault(section, {})[key] = value
    values["tacit"] = {
        "directory": str(directory),
        "run": directory.name,
        "server": str(folder.server),
    }
    project = {
        "name": "tacit",
        "version": version("tacit"),
        "description": "A run of a tacit federation.",
        "license": "Apache-2.0",
        "dependencies": [],
    }
    flower = {
        "publisher": "tacit",
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": values,
    }
    document = {"project": project, "tool": {"flwr": {"app": flower}}}
    (app / "pyproject.toml").write_text(tomlkit.dumps(document))
    return app


def _send(folder: Folder, directory: Path, config: Config, say: Say) -> int:
    app = build_app(folder, directory, config)
    answer = flwr(folder, ["run", str(app), CONNECTION], say)
    number = int(answer["run-id"])
    submissions = [{"flower_run": str(each)} for each in flower_numbers(directory)]
    submissions.append({"flower_run": str(number), "at": datetime.now(UTC).isoformat()})
    write_json(directory / "status.json", {"run": directory.name, "submissions": submissions})
    say(f"Run {directory.name} submitted: Flower's run {number}, folder {directory}")
    return number


def _deployable(config: Config) -> Config:
    if config.privacy.noise == "shared" and config.aggregation.mode == "plain":
        raise ConfigError(
            "privacy.noise = shared simulates a trusted sum where aggregation.mode = plain, and a "
            "federation has none; set aggregation.mode=secure or privacy.noise=own"
        )
    if config.personalisation.own_cooccurrence:
        raise ConfigError(
            "personalisation.own_cooccurrence is each organisation's own choice, which no run "
            "makes for it; leave it at 0 here, and set it in the organisation's agent.toml"
        )
    # The ServerApp runs in another folder than this command.
    changed: dict[str, Any] = {}
    if Path(config.base.name).is_dir():
        changed["base"] = config.base.model_copy(
            update={"name": str(Path(config.base.name).absolute())}
        )
    if config.model.warm_start:
        changed["model"] = config.model.model_copy(
            update={"warm_start": str(Path(config.model.warm_start).absolute())}
        )
    return config.model_copy(update=changed)


def _refuse_second(folder: Folder) -> None:
    names = {number: path.name for path in folder.runs() for number in flower_numbers(path)}
    for run in runs(folder).values():
        if run.going:
            stop = flwr_line(folder, "stop", str(run.number))
            raise RunError(
                f"run {names.get(run.number, 'of another origin')} is still {run.status} (Flower's "
                f"run {run.number}); one goes at a time. Wait for it, or stop it with: {stop}. A "
                "run whose server process was lost counts as failed within a minute"
            )


def _source(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def _all_but_python(folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if name == "__pycache__" or not (name.endswith(".py") or (Path(folder) / name).is_dir())
    }
