"""A tiny random BERT, a small synthetic data set, and runs on them that several tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from shared.config import Config, parse_config
from simulations.synth import synthesise
from simulations.world import World, build_world

USERS, ITEMS, ORGANISATIONS, ROUNDS = 60, 60, 2, 2

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Caches and runs of these tests stay out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TACIT_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of three layers and width 32 with random weights, and a tokenizer of characters."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    characters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *".,:()|'-"]
    vocabulary += [f"##{character}" for character in characters]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(0)
    options = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(options, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic histories on disk."""
    folder = tmp_path_factory.mktemp("data")
    synthesise(USERS, ITEMS, ORGANISATIONS, 0, folder)
    return folder


@pytest.fixture(scope="session")
def make_config(tiny_base: Path, data: Path) -> MakeConfig:
    """The small configuration, with ``section={"key": value}`` changed."""

    def make(**sections: dict[str, Any]) -> Config:
        values: dict[str, dict[str, Any]] = {
            "run": {"threads": 1, "device": "cpu"},
            "data": {"source": str(data)},
            "partition": {"organisations": ORGANISATIONS},
            "base": {"name": str(tiny_base), "precision": "float32"},
            "training": {"rounds": ROUNDS},
            "evaluation": {"bootstrap_samples": 100},
            # Random weights say nothing of these items, and are to count nevertheless.
            "fusion": {"weight_per_lift": 0.0},
        }
        for name, table in sections.items():
            values[name] = values.get(name, {}) | table
        return parse_config(values, "test")

    return make


@pytest.fixture(scope="session")
def world(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The small data set, split."""
    return build_world(make_config(), tmp_path_factory.mktemp("scratch"))
