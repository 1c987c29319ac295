"""Opening an organisation's folder for recommending: its data, and what was delivered to it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from client.data.store import read_store
from client.directory import read_policy
from client.recommend.query import Delivery
from client.recommend.recommender import Recommender
from client.settings import AgentSettings, settings_path
from shared.adapters import load_adapter
from shared.config import Config
from shared.delivery import DELIVERY, statistics_from_arrays
from shared.encoder import TextEncoder, centred, encode_texts
from shared.errors import RunError
from shared.models import load_model
from shared.scoring import Scorer
from shared.settings import adopt

STORE = "histories.duckdb"
STATISTICS = "delivered/statistics.safetensors"
ADAPTER = "delivered/adapter"
SETTINGS = "delivered/settings.json"


def open_recommender(folder: Path, config: Config) -> Recommender:
    """The recommender of an organisation's folder, under a run's configuration.

    Raises:
        RunError: if nothing was delivered yet.
        TacitError: if a file of the organisation cannot be used.
    """
    name = read_policy(folder).organisation.name
    delivered, stamp = folder / STATISTICS, stamp_of(folder)
    if not delivered.exists():
        raise RunError(f"{delivered}: is not there; the federation has delivered nothing yet")
    catalogue, histories = read_store(folder / STORE)
    loaded = load_model(config)
    raw = encode_texts(catalogue.texts, loaded.encoder, loaded.runtime)
    adapter, reliability = None, 0.0
    facts: dict[str, Any] = {}
    if (folder / ADAPTER).exists():
        adapter, reliability = load_adapter(loaded.model, folder / ADAPTER)
        facts = _delivery(folder / ADAPTER / DELIVERY)
    scorer = Scorer(
        config,
        statistics_from_arrays(load_file(delivered), catalogue),
        centred(raw),
        adapter,
        loaded.model,
        loaded.runtime,
        reliability,
    )
    delivery = Delivery(
        facts.get("run", ""), facts.get("round", 0), bool(scorer.blend().adapter), stamp
    )
    encoder = TextEncoder(loaded.encoder, loaded.runtime)
    mean = np.asarray(raw.mean(axis=0), dtype=np.float32)
    merged = scorer.with_merged_adapter()
    return Recommender(name, catalogue, histories, merged, encoder, mean, delivery)


def open_delivered(directory: Path) -> Recommender:
    """The recommender of a deployed organisation, under the settings of what was delivered last.

    Raises:
        RunError: if nothing was delivered yet.
        TacitError: if a file of the organisation cannot be used.
    """
    local = AgentSettings.load(settings_path(directory)).to_config()
    path = directory / SETTINGS
    try:
        text = path.read_text()
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); the federation has delivered nothing yet"
        ) from error
    return open_recommender(directory, adopt(local, text))


def _delivery(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
        return {"run": str(found["run"]), "round": int(found["round"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: cannot be read ({error}); the delivered adapter is not whole, have it "
            "delivered anew"
        ) from error


def stamp_of(directory: Path) -> str:
    """Changes whenever anything that a recommender is made of was written anew."""
    files = [directory / name for name in (STORE, STATISTICS, SETTINGS)]
    files += sorted((directory / ADAPTER).glob("*"))
    digest = hashlib.sha256()
    for path in files:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        digest.update(f"{path.name} {found.st_ino} {found.st_mtime_ns} {found.st_size}\n".encode())
    return digest.hexdigest()[:16]
