"""Finding the agent of a Flower node: held in this process, opened from its folder, or made."""

import functools
import json
from pathlib import Path
from typing import Any

from flwr.app import Context

from client.agent import Agent
from client.checks import verify_gradients, verify_reload
from client.data.ingest import Dataset, load_dataset
from client.data.partition import partition
from client.data.store import read_store, write_store
from client.gate import Gate, Resident
from client.ledger import Ledger
from client.releases import Identity
from client.resources import Resources
from client.settings import AgentSettings, settings_path
from client.trainer import Trainable
from shared.catalogue import Catalogue
from shared.config import Config, from_run_config
from shared.encoder import Vectors, encode_texts
from shared.errors import RunError
from shared.files import atomic_path, organisations_directory, run_directory, write_json
from shared.histories import PrivateHistories
from shared.keys import SigningKey, load_or_create_secret, population_fingerprint
from shared.models import LoadedModel, load_model
from shared.plan import stated_delta
from shared.policy import Policy
from shared.sections import to_toml
from shared.splits import split
from shared.stages import stage
from shared.text_space import TextSpace
from shared.tolerance import check_tolerance, least_participants, noise_share

_agents: dict[Path, Agent] = {}
_gates: dict[Path, Gate] = {}


def register(agent: Agent) -> None:
    """Keep an agent for messages that reach this process."""
    _agents[agent.directory] = agent
    _gates.pop(agent.directory, None)


def release(agent: Agent) -> None:
    """Close an agent's ledger and forget it."""
    agent.ledger.close()
    _agents.pop(agent.directory, None)
    _gates.pop(agent.directory, None)


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
    directory = _directory(run, str(context.run_config.get("run.organisations", "")), number)
    if directory not in _agents:
        config = from_run_config(context.run_config)
        if not (directory / "organisation.json").exists():
            create_organisation(run, number, _dataset(config), config)
        _agents[directory] = open_agent(directory, config)
    return _agents[directory]


def gate_for(context: Context) -> Gate:
    """The gate before the agent of a node."""
    agent = agent_for(context)
    if agent.directory not in _gates:
        _gates[agent.directory] = Gate(Resident(agent))
    return _gates[agent.directory]


def organisation_directory(run: Path, config: Config, number: int) -> Path:
    """Folder of an organisation: its data, policy, key and ledger, and what was delivered to it.

    Inside the run's folder, or where ``run.organisations`` keeps organisations that outlive runs.
    """
    return _directory(run, config.run.organisations, number)


def _directory(run: Path, chosen: str, number: int) -> Path:
    return organisations_directory(run, chosen) / f"{number + 1:04d}"


def experiment_policy(config: Config, identity: Identity, users: int) -> Policy:
    """What a pretended organisation allows: the run's own settings, and nothing beyond.

    Args:
        config: of the run.
        identity: of the organisation.
        users: of the whole federation; the default delta comes from it.

    Raises:
        PrivacyError: if the settings make no policy, such as a delta above 1 / declared users, or
            no secure sum.
    """
    privacy, training = config.privacy, config.training
    houses, aggregation = config.partition.organisations, config.aggregation
    secure, shared = aggregation.mode == "secure", privacy.noise == "shared"
    least = (
        least_participants(houses, aggregation.dropouts, aggregation.colluders)
        if secure
        else houses
    )
    trust: dict[str, Any] = {"simulated_sum": shared and not secure}
    if shared:
        trust["binds"] = "joint"
    if secure:
        check_tolerance(houses, least, aggregation.colluders)
        trust |= {"colluders": aggregation.colluders, "least_participants": least}
    share = noise_share(least, aggregation.colluders if secure else 0)
    return Policy.from_values(
        {
            "organisation": {"name": identity.name, "declared_users": identity.declared_users},
            "budget": {
                "epsilon": None if privacy.noise == "none" else privacy.epsilon,
                "delta": stated_delta(privacy, users),
                "evaluation_share": 1.0,
            },
            "mechanism": {
                "noise": privacy.noise,
                "distribution": ("discrete" if secure else privacy.distribution,),
                "least_noise_multiplier": 0.0,
                "least_noise_share": share if shared else 1.0,
                "greatest_clipping_norm": privacy.clipping_norm,
                "most_steps_per_round": training.steps_per_round,
                "most_steps_per_run": max(1, training.rounds * training.steps_per_round),
                "most_rounds_per_day": 1_000_000,
                "allow_repeatable_noise": privacy.noise_seed >= 0,
            },
            "model": {"greatest_rank": config.model.rank},
            "trust": trust,
        },
        "the run's configuration",
    )


def create_organisation(run: Path, number: int, dataset: Dataset, config: Config) -> None:
    """Write an organisation's folder: its data and what it declares."""
    parts = partition(
        dataset, config.partition.scheme, config.partition.organisations, config.run.seed
    )
    part = parts[number]
    identity = Identity(part.name, number, len(part.users))
    write_organisation(
        organisation_directory(run, config, number),
        number,
        experiment_policy(config, identity, len(dataset.histories)),
        dataset.catalogue,
        dataset.histories.select(part.users),
        split(dataset.histories, config.evaluation.protocol, "test").train.select(part.users),
        config,
    )


def write_organisation(
    directory: Path,
    number: int,
    policy: Policy,
    catalogue: Catalogue,
    histories: PrivateHistories,
    training: PrivateHistories,
    config: Config,
) -> None:
    """Write the folder's files; ``organisation.json`` last, as the sign that it is whole.

    With ``agent.toml`` every command of ``tacit client`` works on a simulated organisation.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = policy.organisation.name
    write_store(directory / "histories.duckdb", name, catalogue, histories)
    write_store(directory / "training.duckdb", name, catalogue, training)
    with atomic_path(directory / "policy.toml") as temporary:
        temporary.write_text(to_toml(policy, above=True))
    with atomic_path(settings_path(directory)) as temporary:
        temporary.write_text(to_toml(AgentSettings.of_run(config), above=True))
    write_json(
        directory / "organisation.json",
        {"number": number, "population": population_of(directory, histories)},
    )


def check_population(directory: Path, histories: PrivateHistories) -> None:
    """Refuse an organisation's folder that belongs to other users.

    Raises:
        RunError: says what to do.
    """
    if population_of(directory, histories) != read_population(directory):
        raise RunError(
            f"{directory}: belongs to other users than the run's data gives this organisation; use "
            "the same data, partition and seed, or another run.organisations"
        )


def population_of(directory: Path, histories: PrivateHistories) -> str:
    """Keyed fingerprint of the users, with the secret that the folder keeps."""
    secret = load_or_create_secret(directory / "keys" / "population.secret")
    return population_fingerprint(histories.user_ids, secret)


def open_agent(directory: Path, config: Config) -> Agent:
    """Open an organisation's folder.

    Raises:
        RunError: if it is not whole.
    """
    catalogue, training = read_store(directory / "training.duckdb")
    _, histories = read_store(directory / "histories.duckdb")
    return make_agent(directory, catalogue, training, histories, config)


def make_agent(
    directory: Path,
    catalogue: Catalogue,
    training: PrivateHistories,
    histories: PrivateHistories,
    config: Config,
) -> Agent:
    """An agent over data in memory; its policy, key and ledger are in the folder."""
    number = int(_read_json(directory / "organisation.json")["number"])
    ledger = open_ledger(directory, population_of(directory, histories))
    resources = functools.partial(resources_of, catalogue, config)
    return Agent(number, directory, catalogue, training, histories, ledger, config, resources)


def resources_of(catalogue: Catalogue, config: Config) -> Resources:
    """The model of a configuration, loaded and checked once per process, over a catalogue."""
    loaded = load_model(config)
    found = Resources(
        trainable_model(loaded),
        item_vectors(catalogue, loaded),
        loaded.sha256,
        loaded.encoder.weights_sha256,
    )
    same = _shared.get("newest")
    if same is None or same.vectors is not found.vectors or same.trainable is not found.trainable:
        same = _shared["newest"] = found
    return same


def open_ledger(
    directory: Path, population: str | None = None, purpose: str = "experiment"
) -> Ledger:
    """The ledger of an organisation's folder, under the folder's policy.

    Args:
        directory: of the organisation.
        population: fingerprint of its users now; None takes the one of its making.
        purpose: ``experiment``, or ``federation`` where the organisation is a real one.
    """
    policy, key = read_policy(directory), SigningKey.load_or_create(key_path(directory))
    known = population or read_population(directory)
    return Ledger(directory / "ledger.sqlite", policy, key, known, purpose=purpose)


def read_population(directory: Path) -> str:
    """Fingerprint of the users for whom a folder was made."""
    return str(_read_json(directory / "organisation.json")["population"])


def key_path(directory: Path) -> Path:
    """Where an organisation keeps the key that signs its ledger."""
    return directory / "keys" / "organisation.pem"


def read_policy(directory: Path) -> Policy:
    """The policy of an organisation's folder.

    Raises:
        RunError: if the folder is not whole.
        PrivacyError: if the policy cannot be used.
    """
    _read_json(directory / "organisation.json")
    return Policy.load(directory / "policy.toml")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(value["number"], int) or not isinstance(value["population"], str):
            raise ValueError("it names no organisation")
        return value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: cannot be read ({error}); start the run anew") from error


def item_vectors(catalogue: Catalogue, loaded: LoadedModel) -> Vectors:
    """Vectors of a catalogue in its ``TextSpace``, computed once for all that share it."""
    return _vectors(catalogue.texts, loaded)


# The newest resources: all organisations of a simulation share them.
_shared: dict[str, Resources] = {}
_vector_cache: dict[tuple[tuple[str, ...], str], Vectors] = {}


def _vectors(texts: tuple[str, ...], loaded: LoadedModel) -> Vectors:
    key = (texts, loaded.encoder.weights_sha256 + loaded.runtime.precision)
    if key not in _vector_cache:
        _vector_cache.clear()
        with stage("vectors"):
            raw = encode_texts(texts, loaded.encoder, loaded.runtime)
            _vector_cache[key] = TextSpace.of(raw).place(raw)
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
