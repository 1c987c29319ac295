"""A shop that has taken part in a run, made once and copied, and its service."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from tests.agent.conftest import config, own_folders, server
from tests.agent.house import Server
from tests.serving.shop import Shop, running, shop_values

__all__ = ["config", "own_folders", "server"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and width 16 with random weights, that reads texts of 128 characters."""
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
        max_position_embeddings=128,
    )
    BertModel(options, add_pooling_layer=False).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def first_shop(base: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The organisation after its run; tests that change it take ``shop``."""
    own = {
        "base": {"name": str(base), "precision": "float32"},
        "machine": {"threads": 1, "device": "cpu", "micro_batch_rows": 2},
    }
    made = Shop(tmp_path_factory.mktemp("shop") / "org", shop_values(server), own)
    made.write()
    made.take_part(server)
    return made


@pytest.fixture
def shop(first_shop: Shop, tmp_path: Path) -> Shop:
    """A copy of this test's own."""
    shutil.copytree(first_shop.directory, tmp_path / "org")
    return Shop(tmp_path / "org", first_shop.values, first_shop.own)


@pytest.fixture(scope="module")
def address(first_shop: Shop) -> Iterator[str]:
    """Where the shop is served, for tests that change nothing."""
    with running(first_shop.directory) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    """Asks that service."""
    with httpx.Client(base_url=address, timeout=60.0) as found:
        yield found
