"""Recommendations at one organisation: from its own folder, for its own users."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from client.data.store import read_store
from client.directory import item_vectors, read_policy
from shared.adapters import Arrays, load_adapter
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import statistics_from_arrays
from shared.encoder import Vectors, encode_texts
from shared.errors import DataError, RunError
from shared.histories import PrivateHistories
from shared.models import LoadedModel, load_model
from shared.scoring import Scorer, top_items


@dataclass(frozen=True)
class Recommendation:
    """One line of a list."""

    item_id: str
    title: str
    text: str
    score: float


@dataclass(frozen=True)
class Recommender:
    """Scores and data of one organisation.

    Attributes:
        name: of the organisation.
        catalogue: its items.
        histories: its users' whole histories. Private.
        scorer: with what the federation delivered.
        loaded: the model, for encoding a stated need.
    """

    name: str
    catalogue: Catalogue
    histories: PrivateHistories
    scorer: Scorer
    loaded: LoadedModel

    def recommend(self, user: str, k: int, need: str | None = None) -> list[Recommendation]:
        """The ``k`` best items that a user has not had.

        Args:
            user: the organisation's identifier.
            k: length of the list.
            need: what the user asks for, in words.

        Raises:
            DataError: if the organisation has no such user.
        """
        place = self.place_of(user)
        vector = None if need is None else self.need_vector(need)
        row = self.scorer.fused(self.histories, np.array([place]), vector)[0]
        return [
            Recommendation(
                self.catalogue.item_ids[i], self.catalogue.titles[i], self.catalogue.texts[i], score
            )
            for i, score in top_items(row, self.histories.row(place), k)
        ]

    def recent(self, user: str, count: int) -> list[str]:
        """Titles of a user's newest items, newest first."""
        newest = self.histories.row(self.place_of(user))[-count:][::-1]
        return [self.catalogue.titles[i] for i in newest]

    def place_of(self, user: str) -> int:
        """Row of a user.

        Raises:
            DataError: if there is none; names a few that there are.
        """
        try:
            return self.histories.user_ids.index(user)
        except ValueError as error:
            some = ", ".join(self.histories.user_ids[:5])
            raise DataError(
                f"{self.name} has no user {user!r}; it has {len(self.histories)}, among them {some}"
            ) from error

    def need_vector(self, need: str) -> Vectors:
        """A need in the space of the centred item vectors, ``[dim] float32``."""
        raw = encode_texts(self.catalogue.texts, self.loaded.encoder, self.loaded.runtime)
        own = encode_texts([need], self.loaded.encoder, self.loaded.runtime)[0]
        shifted = own - raw.mean(axis=0)
        return np.asarray(shifted / np.linalg.norm(shifted), dtype=np.float32)


def open_recommender(folder: Path, config: Config) -> Recommender:
    """Load an organisation's folder: data, delivered statistics, delivered adapter.

    Raises:
        RunError: if nothing was delivered yet.
    """
    name = read_policy(folder).organisation.name
    delivered = folder / "delivered" / "statistics.safetensors"
    if not delivered.exists():
        raise RunError(f"{delivered}: is not there; the federation has delivered nothing yet")
    catalogue, histories = read_store(folder / "histories.duckdb")
    loaded = load_model(config)
    adapter: Arrays | None = None
    reliability = 0.0
    if (folder / "delivered" / "adapter").exists():
        adapter, reliability = load_adapter(loaded.model, folder / "delivered" / "adapter")
    scorer = Scorer(
        config,
        statistics_from_arrays(load_file(delivered), catalogue),
        item_vectors(catalogue, loaded),
        adapter,
        loaded.model,
        loaded.runtime,
        reliability,
    )
    return Recommender(name, catalogue, histories, scorer, loaded)
