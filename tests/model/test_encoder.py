"""Item vectors depend on the item's text and the base's bytes, and on nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared import assets
from shared.assets import Base, require_hash, resolve_base
from shared.devices import Runtime
from shared.encoder import TextEncoder, centred, encode_texts
from shared.errors import AssetError

FLOAT32 = Runtime("cpu", "float32")
TEXTS = ["Alien (1979). Genres: Horror.", "Heat", "A comedy of manners " * 20, "Heat"]


@pytest.fixture(scope="module")
def minilm() -> Base:
    torch.set_num_threads(1)
    try:
        return resolve_base("minilm")
    except AssetError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))


def test_vectors_have_norm_one_and_equal_texts_equal_vectors(minilm: Base) -> None:
    vectors = encode_texts(TEXTS, minilm, FLOAT32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(vectors[1], vectors[3])
    assert float(vectors[0] @ vectors[1]) < 0.9


def test_a_vector_does_not_depend_on_other_texts_or_their_order(
    minilm: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = encode_texts(TEXTS, minilm, FLOAT32)
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "another"))
    alone = encode_texts([TEXTS[1]], minilm, FLOAT32)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)


def test_a_text_is_encoded_once(minilm: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode_texts(TEXTS, minilm, FLOAT32)
    encoded: list[list[str]] = []
    encode: Callable[..., Any] = TextEncoder.encode

    def record(self: TextEncoder, texts: list[str], *rest: Any) -> Any:
        encoded.append(texts)
        return encode(self, texts, *rest)

    monkeypatch.setattr(TextEncoder, "encode", record)
    second = encode_texts([*TEXTS[::-1], "Something new"], minilm, FLOAT32)
    assert encoded == [["Something new"]]
    np.testing.assert_array_equal(second[:4], first[::-1])


def test_centring_takes_away_the_mean_of_the_catalogue() -> None:
    raw = np.random.default_rng(0).normal(3.0, 1.0, size=(50, 8)).astype(np.float32)
    result = centred(raw)
    shifted = raw - raw.mean(axis=0)
    expected = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_centring_one_item_gives_no_nan() -> None:
    assert np.isfinite(centred(np.ones((1, 4), dtype=np.float32))).all()


def test_weights_of_other_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"not the model")
    with pytest.raises(AssetError, match="expected 53aa51"):
        require_hash(file, assets.MINILM_SHA256, "MiniLM")


@pytest.mark.parametrize("files", [(), ("config.json",), ("model.safetensors",), ("model.bin",)])
def test_a_directory_without_safetensors_and_config_is_no_base(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    with pytest.raises(AssetError, match="safetensors"):
        resolve_base(str(folder))


def test_a_package_that_is_missing_says_how_to_install_it() -> None:
    with pytest.raises(AssetError, match="pip install it"):
        assets.package_file("no-such-package-of-tacit", "model", "pip install it")


def test_bases_of_different_bytes_have_different_hashes(tmp_path: Path) -> None:
    hashes = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_text(name)
        hashes.append(resolve_base(str(folder)).weights_sha256)
    assert hashes[0] != hashes[1]


def test_a_kept_encoder_writes_nothing_of_what_it_reads(
    minilm: Base, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = encode_texts(TEXTS, minilm, FLOAT32)
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "another"))
    np.testing.assert_allclose(TextEncoder(minilm, FLOAT32).encode(TEXTS), expected, atol=1e-6)
    assert not (tmp_path / "another").exists()
