"""One organisation with the real MiniLM: two dozen films, a few users, and a delivery."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from client.recommend.query import Delivery
from client.recommend.recommender import Recommender
from shared.adapters import adapter_arrays
from shared.catalogue import Catalogue
from shared.config import Config, parse_config
from shared.encoder import TextEncoder, encode_texts
from shared.histories import PrivateHistories
from shared.models import load_model
from shared.scoring import Scorer
from shared.statistics import Statistics
from shared.text_space import TextSpace

GENRES = ("Horror, Mystery", "Romance, Comedy", "Science Fiction")
TITLES = (
    "The Haunted House",
    "Love in Paris",
    "Voyage to Mars",
    "Night of the Zombies",
    "The Wedding Letter",
    "The Robot Uprising",
    "The Vampire's Curse",
    "Kiss Me by the Sea",
    "Starship Endeavour",
    "Screams in the Cellar",
    "Hearts Entwined",
    "Time Machine Paradox",
    "The Possessed Doll",
    "A Summer Romance",
    "Aliens Over Earth",
    "Blood Moon Slaughter",
    "The Bride's Secret",
    "Colony on the Moon",
    "The Ghost Ship",
    "Two Hearts in Venice",
    "The Android Dream",
    "Demon in the Mirror",
    "The Love Song",
    "Galaxy at War",
)
# Users by the kind that they like; each item's kind is its place modulo 3.
LIKES = (0, 1, 2, 0, 1, 2)
MakeRecommender = Callable[..., Recommender]


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of these tests stay out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    years = tuple(str(1980 + place) if place != 5 else "" for place in range(len(TITLES)))
    genres = tuple(GENRES[place % 3] for place in range(len(TITLES)))
    ids = tuple(f"f{place}" for place in range(len(TITLES)))
    return Catalogue(ids, TITLES, {"year": years, "genres": genres})


@pytest.fixture(scope="session")
def histories() -> PrivateHistories:
    """Each user had three films of one kind and, last, one of the next; the last user had none."""
    rows = [
        np.array([kind, kind + 3 * (1 + user // 3), kind + 12, (kind + 1) % 3 + 15])
        for user, kind in enumerate(LIKES)
    ]
    rows.append(np.array([], dtype=np.int64))
    lengths = [len(row) for row in rows]
    return PrivateHistories(
        tuple(f"u{user}" for user in range(len(rows))),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(rows).astype(np.int64),
        np.arange(sum(lengths), dtype=np.float64) * 86_400.0,
        np.tile(np.array([5, 4, 3, 2], dtype=np.float32), len(LIKES)),
    )


@pytest.fixture(scope="session")
def statistics() -> Statistics:
    """G over the first 18 films: those of a kind follow each other."""
    random = np.random.default_rng(0)
    kinds = np.arange(18) % 3
    transition = (kinds[:, None] == kinds) * 0.5 + random.random((18, 18)) * 0.2
    transition = (transition + transition.T) / 2
    np.fill_diagonal(transition, 0.0)
    return Statistics(np.log(30.0 - np.arange(24.0)), np.arange(18), transition)


@pytest.fixture(scope="session")
def settings() -> Config:
    values = {"run": {"threads": 1, "device": "cpu"}, "base": {"precision": "float32"}}
    return parse_config(values, "test")


@pytest.fixture(scope="session")
def make_recommender(
    catalogue: Catalogue, histories: PrivateHistories, statistics: Statistics, settings: Config
) -> MakeRecommender:
    """A recommender with what was delivered, or parts of it changed."""
    loaded = load_model(settings)
    encoder = TextEncoder(loaded.encoder, loaded.runtime)
    random = np.random.default_rng(1)
    adapter = {
        name: value + (0.02 * random.standard_normal(value.shape)).astype(np.float32)
        for name, value in adapter_arrays(loaded.model).items()
    }

    def make(
        catalogue: Catalogue = catalogue,
        histories: PrivateHistories = histories,
        statistics: Statistics = statistics,
        adapted: bool = True,
    ) -> Recommender:
        raw = encode_texts(catalogue.texts, loaded.encoder, loaded.runtime)
        space = TextSpace.of(raw)
        scorer = Scorer(
            settings,
            statistics,
            space.place(raw),
            adapter if adapted else None,
            loaded.model,
            loaded.runtime,
        )
        delivery = Delivery("run", 3, adapted, "stamp")
        return Recommender(
            "House", catalogue, histories, scorer.with_merged_adapter(), encoder, space, delivery
        )

    return make


@pytest.fixture(scope="session")
def recommender(make_recommender: MakeRecommender) -> Recommender:
    return make_recommender()
