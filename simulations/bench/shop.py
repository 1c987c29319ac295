"""A made-up organisation of any size with a delivery, for timing what it serves."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from client.directory import experiment_policy, write_organisation
from client.releases import Identity
from shared.adapters import Arrays, adapter_arrays, load_arrays, save_adapter
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import DELIVERY
from shared.encoder import Vectors, encode_texts, put_vectors
from shared.files import atomic_directory, write_json
from shared.histories import PrivateHistories
from shared.models import LoadedModel, load_model
from shared.settings import shared_settings

COVERED = 400
GENRES = ("Comedy", "Drama", "Horror", "Romance", "Western", "War", "Crime", "Space")
# More texts than these are not encoded: their vectors are made up around those of these.
ENCODED = 10_000
NOISE = 0.5
SEED = 0


def make_shop(folder: Path, items: int, users: int, length: int, config: Config) -> None:
    """Write an organisation's folder: data, settings, statistics and an adapter.

    Vectors of items beyond ``ENCODED`` are put into the cache on disk as if the base model had
    made them: a cluster around each encoded text.

    Args:
        folder: to write.
        items: of the catalogue.
        users: with a history each.
        length: of a history.
        config: whose base, model, weights and machine apply.
    """
    random = np.random.default_rng(SEED)
    catalogue = _catalogue(items)
    loaded = load_model(config)
    _fill_cache(catalogue, loaded, random)
    # Popular items are had more often, as everywhere.
    places = (items * random.random((users, length)) ** 3).astype(np.int64)
    histories = PrivateHistories(
        tuple(f"user-{user}" for user in range(users)),
        np.arange(users + 1, dtype=np.int64) * length,
        places.ravel(),
        np.tile(np.arange(length, dtype=np.float64) * 86_400.0, users),
    )
    policy = experiment_policy(config, Identity("Shop", 0, users), users)
    write_organisation(folder, 0, policy, catalogue, histories, histories, config)
    covered = min(COVERED, items)
    transition = random.random((covered, covered))
    (folder / "delivered").mkdir()
    save_file(
        {
            "keys": catalogue.key_hashes,
            "log_popularity": np.log(np.linspace(users, 1.0, items)),
            "top": np.arange(covered),
            "transition": transition + transition.T,
            "floor": np.zeros(1),
        },
        folder / "delivered" / "statistics.safetensors",
    )
    (folder / "delivered" / "settings.json").write_text(shared_settings(config))
    deliver(folder, config, 1)


def deliver(folder: Path, config: Config, round_number: int) -> None:
    """Put another adapter in place of the delivered one, as an agent does."""
    loaded = load_model(config)
    random = np.random.default_rng(round_number)
    arrays: Arrays = {
        name: value + (0.02 * random.standard_normal(value.shape)).astype(np.float32)
        for name, value in adapter_arrays(loaded.model).items()
    }
    load_arrays(loaded.model, arrays)
    with atomic_directory(folder / "delivered" / "adapter") as directory:
        save_adapter(loaded.model, directory, "Made up for a measurement.\n", 1.0)
        write_json(directory / DELIVERY, {"run": "made-up", "round": round_number})
    load_arrays(loaded.model, loaded.initial)


def _catalogue(items: int) -> Catalogue:
    return Catalogue(
        tuple(f"item-{place}" for place in range(items)),
        tuple(f"The {GENRES[place % 8]} of Street {place}" for place in range(items)),
        {
            "year": tuple(str(1950 + place % 75) for place in range(items)),
            "genres": tuple(f"{GENRES[place % 8]}, {GENRES[place % 7]}" for place in range(items)),
        },
    )


def _fill_cache(catalogue: Catalogue, loaded: LoadedModel, random: np.random.Generator) -> None:
    texts, base = catalogue.texts, loaded.encoder
    real = encode_texts(texts[:ENCODED], base, loaded.runtime)
    rest = texts[ENCODED:]
    for start in range(0, len(rest), ENCODED):
        part = rest[start : start + ENCODED]
        put_vectors(part, _near(real[: len(part)], random), base, loaded.runtime)


def _near(rows: Vectors, random: np.random.Generator) -> Vectors:
    moved = rows + NOISE * random.standard_normal(rows.shape) / np.sqrt(rows.shape[1])
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)
