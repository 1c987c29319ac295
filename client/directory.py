"""Finding the agent of a Flower node: held in this process, opened from its folder, or made."""

import functools
import json
from dataclasses import asdict
from pathlib import Path

from flwr.app import Context

from client.agent import Agent, Identity, Resources
from client.checks import verify_gradients, verify_reload
from client.data.ingest import Dataset, load_dataset
from client.data.partition import partition
from client.data.store import read_store, write_store
from client.ledger import Budget, Ledger
from client.trainer import Trainable
from shared.catalogue import Catalogue
from shared.config import Config, from_run_config
from shared.encoder import Vectors, centred, encode_texts
from shared.errors import RunError
from shared.files import run_directory, write_json
from shared.histories import PrivateHistories
from shared.models import LoadedModel, load_model
from shared.plan import stated_delta
from shared.splits import split

_agents: dict[Path, Agent] = {}


def register(agent: Agent) -> None:
    """Keep an agent for messages that reach this process."""
    _agents[agent.directory] = agent


def release(agent: Agent) -> None:
    """Close an agent's ledger and forget it."""
    agent.ledger.close()
    _agents.pop(agent.directory, None)


def training_seconds() -> float:
    """Wall time that the agents of this process have spent in private steps."""
    return sum(agent.training_seconds for agent in _agents.values())


def agent_for(context: Context) -> Agent:
    """The agent of a node.

    A simulation names the run's folder in its run config. Under ``flwr run`` there is none: the
    node then takes its part of ``data.source`` by Flower's ``partition-id``.
    """
    number = int(str(context.node_config["partition-id"]))
    run = run_directory(context.run_config, context.run_id)
    directory = organisation_directory(run, number)
    if directory not in _agents:
        config = from_run_config(context.run_config)
        if not (directory / "organisation.json").exists():
            create_organisation(run, number, _dataset(config), config)
        _agents[directory] = open_agent(directory, config)
    return _agents[directory]


def organisation_directory(run: Path, number: int) -> Path:
    """Folder of an organisation inside a run: its data, its ledger and what was delivered to it."""
    return run / "organisations" / f"{number + 1:04d}"


def experiment_budget(config: Config, users: int) -> Budget:
    """What an organisation of a simulation allows: the run's epsilon at the federation's delta."""
    epsilon = None if config.privacy.noise == "none" else config.privacy.epsilon
    return Budget(epsilon, stated_delta(config.privacy, users))


def create_organisation(run: Path, number: int, dataset: Dataset, config: Config) -> None:
    """Write an organisation's folder: its data and what it declares."""
    parts = partition(
        dataset, config.partition.scheme, config.partition.organisations, config.run.seed
    )
    part = parts[number]
    write_organisation(
        organisation_directory(run, number),
        Identity(part.name, number, len(part.users)),
        experiment_budget(config, len(dataset.histories)),
        dataset.catalogue,
        dataset.histories.select(part.users),
        split(dataset.histories, config.evaluation.protocol, "test").train.select(part.users),
    )


def write_organisation(
    directory: Path,
    identity: Identity,
    budget: Budget,
    catalogue: Catalogue,
    histories: PrivateHistories,
    training: PrivateHistories,
) -> None:
    """Write the folder's files; ``organisation.json`` last, as the sign that it is whole."""
    directory.mkdir(parents=True, exist_ok=True)
    write_store(directory / "histories.duckdb", identity.name, catalogue, histories)
    write_store(directory / "training.duckdb", identity.name, catalogue, training)
    write_json(
        directory / "organisation.json", {"identity": asdict(identity), "budget": asdict(budget)}
    )


def open_agent(directory: Path, config: Config) -> Agent:
    """Open an organisation's folder.

    Raises:
        RunError: if it is not whole.
    """
    identity, budget = read_organisation(directory)
    catalogue, training = read_store(directory / "training.duckdb")
    return make_agent(directory, identity, budget, catalogue, training, config)


def make_agent(
    directory: Path,
    identity: Identity,
    budget: Budget,
    catalogue: Catalogue,
    training: PrivateHistories,
    config: Config,
) -> Agent:
    """An agent over data in memory; its ledger is in the folder."""
    ledger = Ledger(directory / "ledger.sqlite", budget)

    def resources() -> Resources:
        loaded = load_model(config)
        vectors = item_vectors(catalogue, loaded)
        return Resources(trainable_model(loaded), vectors, loaded.sha256)

    return Agent(identity, directory, catalogue, training, ledger, config, resources)


def read_organisation(directory: Path) -> tuple[Identity, Budget]:
    """Who an organisation is and what it allows, from its folder.

    Raises:
        RunError: if the folder is not whole.
    """
    path = directory / "organisation.json"
    try:
        value = json.loads(path.read_text())
        return Identity(**value["identity"]), Budget(**value["budget"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); start the run anew") from error


def item_vectors(catalogue: Catalogue, loaded: LoadedModel) -> Vectors:
    """Centred vectors of a catalogue, computed once for all organisations that share it."""
    return _vectors(catalogue.texts, loaded)


_vector_cache: dict[tuple[tuple[str, ...], str], Vectors] = {}


def _vectors(texts: tuple[str, ...], loaded: LoadedModel) -> Vectors:
    key = (texts, loaded.encoder.weights_sha256 + loaded.runtime.precision)
    if key not in _vector_cache:
        _vector_cache.clear()
        _vector_cache[key] = centred(encode_texts(texts, loaded.encoder, loaded.runtime))
    return _vector_cache[key]


def trainable_model(loaded: LoadedModel) -> Trainable:
    """The model under Opacus's hooks, wrapped and checked once per process.

    Raises:
        ModelError: if its gradients or its saved adapter are not what they should be.
    """
    found = loaded.model.companion
    if not isinstance(found, Trainable):
        found = Trainable.of(loaded.model, loaded.runtime)
        verify_gradients(found)
        verify_reload(loaded)
        loaded.model.companion = found
    return found


@functools.lru_cache(maxsize=1)
def _dataset(config: Config) -> Dataset:
    return load_dataset(config.data)
