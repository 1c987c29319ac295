"""Opening an organisation's folder for recommending: its data, and what was delivered to it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from client.data.store import read_store
from client.directory import read_policy
from client.recommend.own_pairs import with_own_pairs
from client.recommend.query import Delivery
from client.recommend.recommender import Recommender
from client.settings import AgentSettings, settings_path
from shared.adapters import load_adapter
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import DELIVERY, statistics_from_arrays
from shared.encoder import TextEncoder, Vectors, encode_texts
from shared.errors import RunError
from shared.histories import PrivateHistories
from shared.models import LoadedModel, load_model
from shared.scoring import Scorer
from shared.settings import adopt
from shared.text_space import TextSpace

STORE = "histories.duckdb"
STATISTICS = "delivered/statistics.safetensors"
ADAPTER = "delivered/adapter"
SETTINGS = "delivered/settings.json"


@dataclass(frozen=True)
class _Data:
    """What does not change with a delivery."""

    catalogue: Catalogue
    histories: PrivateHistories
    vectors: Vectors
    text_space: TextSpace
    encoder: TextEncoder


class Opener:
    """Opens the recommender of an organisation's folder, again and again as deliveries come.

    Data, item vectors and encoder are kept from one opening to the next where they are the same.

    Args:
        directory: of the organisation.
        config_of: the configuration under which the present delivery was made.
    """

    def __init__(self, directory: Path, config_of: Callable[[Path], Config]) -> None:
        self._directory = directory
        self._config_of = config_of
        self._key: tuple[object, ...] = ()
        self._data: _Data | None = None

    def open(self) -> Recommender:
        """The recommender of what is there now.

        Raises:
            RunError: if nothing was delivered yet.
            TacitError: if a file of the organisation cannot be used.
        """
        folder, stamp = self._directory, stamp_of(self._directory)
        name = read_policy(folder).organisation.name
        delivered = folder / STATISTICS
        if not delivered.exists():
            raise RunError(f"{delivered}: is not there; the federation has delivered nothing yet")
        config = self._config_of(folder)
        loaded = load_model(config)
        data = self._same_data(loaded)
        adapter, reliability = None, 0.0
        facts: dict[str, Any] = {}
        if (folder / ADAPTER).exists():
            adapter, reliability = load_adapter(loaded.model, folder / ADAPTER)
            facts = _delivery(folder / ADAPTER / DELIVERY)
        scorer = Scorer(
            config,
            statistics_from_arrays(load_file(delivered), data.catalogue),
            data.vectors,
            adapter,
            loaded.model,
            loaded.runtime,
            reliability,
        )
        delivered_statistics = None
        if config.personalisation.own_cooccurrence:
            delivered_statistics = scorer.statistics
            scorer = with_own_pairs(scorer, data.histories)
        delivery = Delivery(
            facts.get("run", ""),
            facts.get("round", 0),
            bool(scorer.blend().adapter),
            stamp,
            delivered_statistics is not None,
        )
        return Recommender(
            name,
            data.catalogue,
            data.histories,
            scorer.with_merged_adapter(),
            data.encoder,
            data.text_space,
            delivery,
            delivered=delivered_statistics,
        )

    def _same_data(self, loaded: LoadedModel) -> _Data:
        store = self._directory / STORE
        found = store.stat() if store.exists() else None
        key = (
            None if found is None else (found.st_ino, found.st_mtime_ns, found.st_size),
            loaded.encoder.weights_sha256,
            loaded.runtime,
        )
        if self._data is None or key != self._key:
            catalogue, histories = read_store(store)
            raw = encode_texts(catalogue.texts, loaded.encoder, loaded.runtime)
            space = TextSpace.of(raw)
            self._data = _Data(
                catalogue,
                histories,
                space.place(raw),
                space,
                TextEncoder(loaded.encoder, loaded.runtime),
            )
            self._key = key
        return self._data


def open_recommender(folder: Path, config: Config) -> Recommender:
    """The recommender of an organisation's folder, under a run's configuration.

    Raises:
        RunError: if nothing was delivered yet.
        TacitError: if a file of the organisation cannot be used.
    """
    return Opener(folder, lambda _: config).open()


def open_delivered(directory: Path) -> Recommender:
    """The recommender of a deployed organisation, under the settings of what was delivered last.

    Raises:
        RunError: if nothing was delivered yet.
        TacitError: if a file of the organisation cannot be used.
    """
    return Opener(directory, delivered_config).open()


def delivered_config(directory: Path) -> Config:
    """The configuration of a deployed organisation under which the last delivery was made.

    Raises:
        RunError: if nothing was delivered yet.
        ConfigError: if a settings file cannot be used.
    """
    local = AgentSettings.load(settings_path(directory)).to_config()
    path = directory / SETTINGS
    try:
        text = path.read_text()
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); the federation has delivered nothing yet"
        ) from error
    return adopt(local, text)


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
    files.append(settings_path(directory))
    files += sorted((directory / ADAPTER).glob("*"))
    digest = hashlib.sha256()
    for path in files:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        digest.update(f"{path.name} {found.st_ino} {found.st_mtime_ns} {found.st_size}\n".encode())
    return digest.hexdigest()[:16]
