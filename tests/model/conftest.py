"""Tiny random models of three families, and made-up users, items and priors to train them on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)

from client.trainer import Trainable
from shared.adapters import load_arrays
from shared.assets import resolve_base
from shared.config import ModelSection
from shared.devices import Runtime
from shared.histories import PrivateHistories
from shared.models import quiet
from shared.user_model import UserModel, build_user_model

DIM = 32
ITEMS = 25
SIZES: dict[str, Any] = {
    "hidden_size": DIM,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 40,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class World:
    """Items ``[items, dim]`` of norm 1, a prior ``[items]``, and users of very unequal lengths."""

    items: Tensor
    prior: Tensor
    histories: PrivateHistories


def _histories(rows: Sequence[Sequence[int]]) -> PrivateHistories:
    lengths = [len(row) for row in rows]
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return PrivateHistories(
        user_ids=tuple(str(place) for place in range(len(rows))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        items=items,
        times=np.arange(len(items), dtype=np.float64),
    )


@pytest.fixture(scope="session")
def make_histories() -> Callable[[Sequence[Sequence[int]]], PrivateHistories]:
    """Histories from rows of items, in order of time."""
    return _histories


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories with a random BERT, Llama and GPT-2 of three narrow layers each."""
    quiet()
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    models: dict[str, PreTrainedModel] = {
        "bert": BertModel(BertConfig(**SIZES), add_pooling_layer=False),
        "llama": LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=2)),
        "gpt2": GPT2Model(
            GPT2Config(n_embd=DIM, n_layer=3, n_head=4, vocab_size=40, n_positions=64)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    return {name: folder / name for name in models}


@pytest.fixture(scope="session")
def build(tiny_bases: dict[str, Path]) -> Callable[..., UserModel]:
    """A fresh user model; its trained factors are random, for at B = 0 many faults do not show."""

    def fresh(family: str = "bert", adapter: str = "ffa-lora", seed: int = 0) -> UserModel:
        options = ModelSection.model_validate({"adapter": adapter, "rank": 4, "layers": 2})
        base = resolve_base(str(tiny_bases[family]))
        model = build_user_model(base, options, Runtime("cpu", "float32"), seed)
        random = np.random.default_rng(1)
        drawn = {
            name: random.normal(0.0, 0.05, tuple(p.shape)).astype(np.float32)
            for name, p in model.trained.items()
        }
        load_arrays(model, drawn)
        return model

    return fresh


@pytest.fixture
def wrapped(build: Callable[..., UserModel]) -> Trainable:
    """A fresh tiny BERT under hooks."""
    return Trainable.of(build(), Runtime("cpu", "float32"))


@pytest.fixture(scope="session")
def world() -> World:
    """Nine users, of whom one has no history, one a single item and one the same item again."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(7)
    items = torch.nn.functional.normalize(torch.randn(ITEMS, DIM, generator=generator), dim=-1)
    random = np.random.default_rng(7)
    rows = [random.integers(0, ITEMS, size=n).tolist() for n in (12, 2, 5, 30, 3, 7)]
    return World(
        items, torch.randn(ITEMS, generator=generator), _histories([*rows, [], [4], [6, 6, 6]])
    )


@pytest.fixture(scope="session")
def gradient_by_hand(world: World) -> Callable[[UserModel, npt.NDArray[np.int64], int], Tensor]:
    """Gradient of one user's loss by plain autograd: no hooks, no padding and no other users.

    Parameters in the order of their names, ``[parameters] float64``.
    """

    def gradient(model: UserModel, history: npt.NDArray[np.int64], window: int) -> Tensor:
        row = torch.from_numpy(history[-(window + 1) :].copy())
        hidden = model(world.items[row[:-1]][None])[0]
        cosine = torch.nn.functional.normalize(hidden, dim=-1) @ world.items.T
        logits = cosine / model.temperature + world.prior
        for place, target in enumerate(row[1:].tolist()):
            for had in set(row[: place + 1].tolist()) - {target}:
                logits[place, had] = -torch.inf
        chosen = torch.log_softmax(logits, dim=-1)[torch.arange(len(row) - 1), row[1:]]
        parameters = [model.trained[name] for name in sorted(model.trained)]
        gradients = torch.autograd.grad(-chosen.mean(), parameters)
        return torch.cat([g.reshape(-1) for g in gradients]).double()

    return gradient
