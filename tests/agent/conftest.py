"""A tiny base, a server's run over it, an organisation's folder, and both ways to its agent."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from client.gate import Gate
from client.organisation import Organisation
from shared.config import Config, parse_config
from shared.keys import SigningKey
from shared.models import load_model
from shared.plan import make_plan
from shared.wire import AgentAccess, Parcel
from tests.agent.house import DECLARED, House, Server

MakeHouse = Callable[..., House]


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of these tests stay out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TACIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and width 16 with random weights, and a tokenizer of characters."""
    folder = tmp_path_factory.mktemp("base")
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    vocabulary += [f"##{character}" for character in characters]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    options = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(options, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def run_values(base: Path) -> dict[str, dict[str, Any]]:
    """Settings of a run of three rounds of one step over all users."""
    return {
        "run": {"threads": 1, "device": "cpu"},
        "base": {"name": str(base), "precision": "float32"},
        "model": {"rank": 2, "layers": 1, "window": 4},
        "privacy": {
            "delta": 1e-4,
            "popularity_share": 0.5,
            "cooccurrence_share": 0.3,
            "adapter_share": 0.1,
            "evaluation_share": 0.1,
        },
        "training": {"rounds": 3},
        # Random weights say nothing of these items, and are to count nevertheless.
        "fusion": {"weight_per_lift": 0.0},
    }


@pytest.fixture(scope="session")
def config(base: Path) -> Config:
    """Of the server's run."""
    return parse_config(run_values(base) | {"aggregation": {"mode": "plain"}}, "test")


@pytest.fixture(scope="session")
def server(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The federation that the organisation has approved."""
    key = SigningKey.load_or_create(tmp_path_factory.mktemp("server") / "server.pem")
    plan = make_plan(config, users=DECLARED, organisations=1)
    return Server(config, plan, load_model(config), key)


@pytest.fixture(scope="session")
def stranger(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """Another federation, with the same run and a key of its own."""
    path = tmp_path_factory.mktemp("stranger") / "server.pem"
    return server.other(SigningKey.load_or_create(path))


@pytest.fixture
def make_house(base: Path, server: Server, tmp_path: Path) -> MakeHouse:
    """Writes an organisation's folder; policy by section, ``own`` for its ``agent.toml``."""

    def make(
        name: str = "house", own: dict[str, dict[str, Any]] | None = None, **rules: dict[str, Any]
    ) -> House:
        values: dict[str, dict[str, Any]] = {
            "organisation": {"name": "house", "declared_users": DECLARED},
            "budget": {"epsilon": 8.0, "delta": 1e-4, "evaluation_share": 1.0},
            "mechanism": {"least_noise_multiplier": 0.0, "most_steps_per_run": 3},
            "federations": {"allowed": (server.key.public,)},
        }
        for section, table in rules.items():
            values[section] = values.get(section, {}) | table
        settings: dict[str, dict[str, Any]] = {
            "base": {"name": str(base), "precision": "float32"},
            "machine": {"threads": 1, "device": "cpu", "micro_batch_rows": 2},
        }
        for section, table in (own or {}).items():
            settings[section] = settings.get(section, {}) | table
        made = House(tmp_path / name, values, settings)
        made.write()
        return made

    return make


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """An organisation that has approved the server."""
    return make_house()


@dataclass
class Way:
    """A way to an organisation's agent.

    Attributes:
        house: of the organisation.
        agent: answers.
        process: of the agent; None where it is this one.
    """

    house: House
    agent: AgentAccess
    process: BaseProcess | None

    def ask(self, kind: str, request: Parcel) -> Parcel:
        return self.agent.ask(kind, request)


WAYS = ("here", "socket")


@pytest.fixture
def open_way() -> Iterator[Callable[..., Way]]:
    """Opens a way to a house's agent; all are closed with the test."""
    with ExitStack() as stack:

        def opened(house: House, how: str) -> Way:
            if how == "here":
                organisation = stack.enter_context(closing(Organisation(house.directory)))
                return Way(house, Gate(organisation), None)
            process = stack.enter_context(house.agent())
            return Way(house, house.access(), process)

        yield opened


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, house: House, open_way: Callable[..., Way]) -> Way:
    """Both ways to the agent of ``house``."""
    return open_way(house, request.param)
