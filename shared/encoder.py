"""The item encoder: a frozen base model turns item texts into vectors, each computed once."""

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModel, AutoTokenizer

from shared.assets import Base
from shared.devices import Runtime
from shared.files import cache_dir

BATCH_TOKENS = 4096
MAX_TOKENS = 128

Vectors = npt.NDArray[np.float32]


def encode_texts(
    texts: Sequence[str],
    base: Base,
    runtime: Runtime,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """Vectors of ``texts``: mean over tokens of the last hidden state, normalised.

    Cached on disk by weights hash, pooling, precision and text (the text already carries its
    template), so that an item is encoded once per machine. Public data only: no privacy cost.

    Returns:
        ``[texts, dim] float32``, rows of norm 1.
    """
    if not texts:
        raise ValueError("no texts to encode")
    keys = [_key(text) for text in texts]
    with _cache(base, runtime) as store:
        known = _lookup(store, keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = TextEncoder(base, runtime).encode(list(missing.values()), progress)
            _keep(store, list(missing), fresh)
            known |= dict(zip(missing, fresh, strict=True))
    return np.stack([known[key] for key in keys])


def put_vectors(texts: Sequence[str], vectors: Vectors, base: Base, runtime: Runtime) -> None:
    """Put vectors of texts into the cache on disk, as if they had been encoded.

    Args:
        texts: of the items.
        vectors: ``[texts, dim] float32``, rows of norm 1.
        base, runtime: under which they will be looked for.
    """
    with _cache(base, runtime) as store:
        _keep(store, [_key(text) for text in texts], vectors)


@contextmanager
def _cache(base: Base, runtime: Runtime) -> Iterator[sqlite3.Connection]:
    path = cache_dir() / "vectors" / f"{base.weights_sha256[:32]}-{runtime.precision}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=60.0)) as store:
        store.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, value BLOB)")
        yield store


def _key(text: str) -> bytes:
    return hashlib.sha256(f"mean/{MAX_TOKENS}\0{text}".encode()).digest()


def _keep(store: sqlite3.Connection, keys: Sequence[bytes], vectors: Vectors) -> None:
    with store:
        store.executemany(
            "INSERT OR REPLACE INTO vectors VALUES (?, ?)",
            [(key, row.tobytes()) for key, row in zip(keys, vectors, strict=True)],
        )


def centred(vectors: Vectors) -> Vectors:
    """Subtract the mean and renormalise: raw vectors share most of their direction."""
    return unit_rows(vectors - vectors.mean(axis=0))


def unit_rows(vectors: Vectors) -> Vectors:
    """Rows of norm 1; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def _lookup(store: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
    known: dict[bytes, Vectors] = {}
    unique = list(dict.fromkeys(keys))
    for start in range(0, len(unique), 500):
        part = unique[start : start + 500]
        marks = ",".join("?" * len(part))
        for key, value in store.execute(
            f"SELECT key, value FROM vectors WHERE key IN ({marks})", part
        ):
            known[key] = np.frombuffer(value, dtype=np.float32)
    return known


class TextEncoder:
    """The base model, loaded once and kept; keeps nothing of the texts that it reads.

    Safe to use from several threads, one of which encodes at a time.

    Args:
        base: whose weights turn texts into vectors.
        runtime: device and precision.
    """

    def __init__(self, base: Base, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        self._model = load_encoder(base.path).to(runtime.device).eval()
        self._in_use = threading.Lock()

    def encode(
        self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None
    ) -> Vectors:
        """Vectors as of ``encode_texts``, ``[texts, dim] float32``."""
        with self._in_use:
            return self._encode(texts, progress)

    def _encode(self, texts: Sequence[str], progress: Callable[[int, int], None] | None) -> Vectors:
        device = self._runtime.device
        tokens = self._tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(tokens[i]))
        result: list[Vectors] = [np.empty(0, dtype=np.float32)] * len(texts)
        done = 0
        while done < len(order):
            size = max(1, BATCH_TOKENS // max(1, len(tokens[order[done]])))
            part = order[done : done + size]
            batch = self._tokenizer.pad(
                {"input_ids": [tokens[i] for i in part]}, return_tensors="pt"
            ).to(device)
            with torch.inference_mode(), self._runtime.autocast():
                hidden = self._model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
                ).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            rows = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
            for i, row in zip(part, rows, strict=True):
                result[i] = row
            done += len(part)
            if progress is not None:
                progress(done, len(order))
        return np.stack(result)


def load_encoder(path: Path) -> torch.nn.Module:
    """The base model whole, for encoding; without the pooler that nobody reads."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, local_files_only=True)
    extra = {"add_pooling_layer": False} if config.model_type in POOLED_TYPES else {}
    model: torch.nn.Module = AutoModel.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, local_files_only=True, **extra
    )
    return model


POOLED_TYPES = frozenset({"bert", "roberta", "xlm-roberta", "mpnet", "electra"})
