"""Histories written by hand, an agent over a tiny model, and a chi-square test of noise."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file
from scipy import stats
from transformers import BertConfig, BertModel

from client.agent import Agent
from client.ledger import Ledger
from client.resources import Resources
from client.trainer import Trainable, Update
from shared.assets import resolve_base
from shared.catalogue import Catalogue
from shared.config import Config, parse_config
from shared.devices import Runtime
from shared.entries import Intent
from shared.files import atomic_path
from shared.histories import PrivateHistories
from shared.keys import SigningKey
from shared.models import quiet
from shared.plan import Mechanism, PrivacyPlan, make_plan
from shared.policy import Policy
from shared.user_model import build_user_model

Arrays = dict[str, npt.NDArray[Any]]

DIM = 16
BASE = "ba" * 32
ITEMS = 400
# Far from the number of histories, so that a divisor taken from the data shows.
DECLARED = 20
ROWS: tuple[list[int], ...] = (
    [0, 1, 2, 3],
    [3, 2, 1, 4, 5],
    [7, 7, 8],
    [9],
    [],
    [10, 11, 12, 13, 14, 15],
)


def _histories(rows: Sequence[Sequence[int]]) -> PrivateHistories:
    lengths = [len(row) for row in rows]
    return PrivateHistories(
        user_ids=tuple(f"user-{place}" for place in range(len(rows))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=np.array([item for row in rows for item in row], dtype=np.int64),
        times=np.array([float(t) for n in lengths for t in range(n)]),
    )


def _deliver_statistics(directory: Path, catalogue: Catalogue) -> None:
    """As another process of the organisation keeps what it was handed."""
    keys = catalogue.key_hashes
    arrays: Arrays = {
        "keys": keys,
        "log_popularity": np.linspace(-1.0, 1.0, len(keys)),
        "top": np.arange(3),
        "transition": np.zeros((3, 3)),
        "floor": np.array([-2.0]),
    }
    with atomic_path(directory / "delivered" / "statistics.safetensors") as temporary:
        save_file(arrays, temporary)


def _policy(epsilon: float | None, rules: dict[str, dict[str, Any]]) -> Policy:
    values: dict[str, dict[str, Any]] = {
        "organisation": {"name": "house", "declared_users": DECLARED},
        "budget": {"epsilon": epsilon, "delta": 1e-4, "evaluation_share": 1.0},
        "mechanism": {"least_noise_multiplier": 0.0, "most_steps_per_run": 3},
    }
    for section, table in rules.items():
        values[section] = values.get(section, {}) | table
    return Policy.from_values(values, "test")


@pytest.fixture(scope="session")
def make_histories() -> Callable[[Sequence[Sequence[int]]], PrivateHistories]:
    """Histories from rows of items, in order of time."""
    return _histories


@pytest.fixture(scope="session")
def deviation_is() -> Callable[[npt.NDArray[Any], float], bool]:
    """Whether values are centred Gaussian noise of a deviation; wrong once in a million times.

    The sum of squares over the variance is chi-square with one degree of freedom a value.
    """

    def check(values: npt.NDArray[Any], deviation: float) -> bool:
        statistic = float(((values.astype(np.float64) / deviation) ** 2).sum())
        tail = min(stats.chi2.cdf(statistic, values.size), stats.chi2.sf(statistic, values.size))
        return bool(tail > 0.5e-6)

    return check


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random BERT of two narrow layers."""
    quiet()
    folder = tmp_path_factory.mktemp("base") / "bert"
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            hidden_size=DIM,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            vocab_size=40,
            max_position_embeddings=64,
        ),
        add_pooling_layer=False,
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def resources(tiny_base: Path) -> Resources:
    """The tiny model under hooks, with random item vectors."""
    runtime = Runtime("cpu", "float32")
    options = parse_config({"model": {"rank": 2, "layers": 1}}, "test").model
    model = build_user_model(resolve_base(str(tiny_base)), options, runtime, seed=0)
    vectors = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Resources(Trainable.of(model, runtime), vectors, "model-of-the-test", BASE)


@pytest.fixture(scope="session")
def adapter(resources: Resources) -> Arrays:
    """An adapter that fits the tiny model."""
    random = np.random.default_rng(3)
    return {
        name: random.normal(0.0, 0.1, tuple(p.shape)).astype(np.float32)
        for name, p in resources.trainable.model.trained.items()
    }


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """Epsilon 8 at delta 1e-4 in three rounds over all users, but for the privacy options given."""

    def make(steps_per_round: int = 1, **privacy: Any) -> Config:
        training = {"rounds": 3, "micro_batch_rows": 2, "steps_per_round": steps_per_round}
        values = {
            "privacy": {"delta": 1e-4, "epsilon": 8.0} | privacy,
            "aggregation": {"mode": "plain"},
            "training": training,
            "model": {"window": 4},
            "run": {"threads": 1},
        }
        return parse_config(values, "test")

    return make


@pytest.fixture(scope="session")
def plan(make_config: Callable[..., Config]) -> PrivacyPlan:
    """The honest plan of that configuration."""
    return make_plan(make_config(), users=len(ROWS), organisations=1)


@pytest.fixture(scope="session")
def roster() -> tuple[str, ...]:
    """Public keys of eight organisations."""
    return tuple(f"{number:02x}" * 32 for number in range(0xA0, 0xA8))


@pytest.fixture(scope="session")
def secure_plan() -> PrivacyPlan:
    """Epsilon 8 at delta 1e-4 for the sum of eight, of whom one may be lost and one collude."""
    values = {
        "privacy": {"delta": 1e-4, "epsilon": 8.0},
        "training": {"rounds": 3},
        "partition": {"organisations": 8},
    }
    return make_plan(parse_config(values, "test"), users=1000, organisations=8)


@pytest.fixture(scope="session")
def make_secure_policy(roster: tuple[str, ...]) -> Callable[..., Policy]:
    """What fits that plan, but for the rules of ``trust`` and the epsilon given."""

    def make(epsilon: float = 8.0, members: tuple[str, ...] = roster, **trust: Any) -> Policy:
        mechanism = {
            "noise": "shared",
            "distribution": ("discrete",),
            "least_noise_share": 6**-0.5,
            "most_steps_per_run": 4,
        }
        rules = {"binds": "joint", "least_participants": 7, "members": members}
        return _policy(epsilon, {"mechanism": mechanism, "trust": rules | trust})

    return make


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Policy]:
    """Epsilon 8 at delta 1e-4 and at most three steps, but for the rules given by section."""

    def make(epsilon: float | None = 8.0, **rules: dict[str, Any]) -> Policy:
        return _policy(epsilon, rules)

    return make


@pytest.fixture(scope="session")
def open_ledger() -> Callable[..., Ledger]:
    """The ledger of a folder, whose key lies beside it."""

    def opened(directory: Path, policy: Policy, population: str = "0" * 64) -> Ledger:
        key = SigningKey.load_or_create(directory / "keys" / "organisation.pem")
        return Ledger(directory / "ledger.sqlite", policy, key, population)

    return opened


@pytest.fixture(scope="session")
def intend() -> Callable[..., Intent]:
    """The intent of a mechanism under a plan, as an agent writes it, but for the fields given."""

    def make(mechanism: Mechanism, plan: PrivacyPlan, count: int = 1, /, **fields: Any) -> Intent:
        written: dict[str, Any] = {
            "run": "run",
            "round": 1,
            "federation": "",
            "mechanism": mechanism.name,
            "sampling_rate": mechanism.sampling_rate,
            "noise_multiplier": mechanism.noise_multiplier,
            "sensitivity": mechanism.sensitivity,
            "noise_share": mechanism.noise_share,
            "count": count,
            "noise": plan.noise.value,
            "distribution": mechanism.distribution,
            "aggregation": plan.aggregation.value,
            "least_participants": plan.least_participants,
            "participants": (),
            "secret_randomness": True,
            "plan": plan.sha256,
            "adapter_before": "",
            "policy": "0" * 64,
            "population": "0" * 64,
            "code": "test",
            "canaries": 0,
        }
        return Intent(**written | fields)

    return make


@pytest.fixture(scope="session")
def open_agent(
    make_config: Callable[..., Config],
    make_policy: Callable[..., Policy],
    open_ledger: Callable[..., Ledger],
    resources: Resources,
) -> Callable[..., AbstractContextManager[Agent]]:
    """An agent over the histories ``ROWS`` or those given, in a new folder or in the one given.

    It holds the federation's statistics, so that it can be asked for anything.
    """

    @contextmanager
    def opened(
        folder: Path | None = None,
        epsilon: float | None = 8.0,
        rules: dict[str, dict[str, Any]] | None = None,
        rows: Sequence[Sequence[int]] = ROWS,
        **privacy: Any,
    ) -> Iterator[Agent]:
        given = rules or {}
        mechanism = {
            "noise": privacy.get("noise", "own"),
            "allow_repeatable_noise": privacy.get("noise_seed", -1) >= 0,
        }
        policy = make_policy(
            epsilon, **given | {"mechanism": mechanism | given.get("mechanism", {})}
        )
        names = tuple(f"Item {place}" for place in range(ITEMS))
        catalogue = Catalogue(names, names, {})
        with TemporaryDirectory() as scratch:
            directory = folder or Path(scratch)
            _deliver_statistics(directory, catalogue)
            with open_ledger(directory, policy) as ledger:
                yield Agent(
                    0,
                    directory,
                    catalogue,
                    _histories(rows),
                    _histories(rows),
                    ledger,
                    make_config(**privacy),
                    lambda: resources,
                )

    return opened


@pytest.fixture
def agent(open_agent: Callable[..., AbstractContextManager[Agent]]) -> Iterator[Agent]:
    """An agent with an empty ledger."""
    with open_agent() as opened:
        yield opened


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, adapter: Arrays) -> list[int]:
    """Puts a stand-in for training, which a test of the ledger need not do; keeps its steps."""
    calls: list[int] = []

    def record(steps: int, **_: Any) -> Update:
        calls.append(steps)
        return Update({name: value + len(calls) for name, value in adapter.items()}, 0)

    monkeypatch.setattr("client.agent.private_steps", record)
    return calls
