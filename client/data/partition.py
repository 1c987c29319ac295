"""One data set divided into several organisations, for simulation."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from client.data.ingest import Dataset
from shared.catalogue import Catalogue
from shared.errors import ConfigError
from shared.histories import PrivateHistories

SCHEMES = "iid, dirichlet:ALPHA with ALPHA above 0, or column:NAME"
_NO_VALUE = "unknown"


@dataclass(frozen=True)
class Organisation:
    """Some users of a data set.

    Attributes:
        name: of the organisation; made of small letters, digits and hyphens.
        users: ``[users] int64`` places in the histories, ascending.
    """

    name: str
    users: npt.NDArray[np.int64]


def partition(dataset: Dataset, scheme: str, organisations: int, seed: int) -> list[Organisation]:
    """Give every user to exactly one organisation; none stays empty. The same for the same seed.

    Schemes:
        ``iid``: at random, sizes differ by at most 1.
        ``dirichlet:ALPHA``: users who like the same genre most tend to be together, the more so the
            smaller ALPHA. For every genre the shares of the organisations are drawn from a
            symmetric Dirichlet distribution, as Yurochkin et al. 2019 (Bayesian Nonparametric
            Federated Learning of Neural Networks, section 4) do for every class of images.
        ``column:NAME``: one organisation per value of a column about users; ``organisations`` and
            ``seed`` are not used.

    Raises:
        ConfigError: for another scheme, an unknown column, more organisations than users, or
            ``dirichlet`` over items without attributes.
    """
    kind, colon, value = scheme.partition(":")
    if kind == "column" and value:
        return _by_column(dataset, value)
    users = len(dataset.histories)
    if organisations > users:
        raise ConfigError(
            f"partition.organisations is {organisations}, but {dataset.name} has only {users} "
            "users; every organisation needs at least one"
        )
    if organisations < 1:
        raise ConfigError(f"partition.organisations is {organisations}; expected at least 1")
    generator = np.random.default_rng(seed)
    if scheme == "iid":
        chosen = np.arange(users) % organisations
        generator.shuffle(chosen)
    elif kind == "dirichlet" and colon:
        chosen = _by_genre(dataset, _alpha(scheme, value), organisations, generator)
    else:
        raise ConfigError(f"partition.scheme is {scheme!r}; expected {SCHEMES}")
    width = len(str(organisations))
    return [
        Organisation(f"org-{index + 1:0{width}}", np.flatnonzero(chosen == index))
        for index in range(organisations)
    ]


def _alpha(scheme: str, text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not 0 < alpha < math.inf:
        raise ConfigError(f"partition.scheme is {scheme!r}; expected {SCHEMES}")
    return alpha


def _by_column(dataset: Dataset, column: str) -> list[Organisation]:
    if column not in dataset.user_columns:
        known = ", ".join(dataset.user_columns) or "none"
        raise ConfigError(
            f"partition.scheme is 'column:{column}', but {dataset.name} has no such column about "
            f"users; it has {known}; expected {SCHEMES}"
        )
    values, codes = np.unique(np.array(dataset.user_columns[column]), return_inverse=True)
    return [
        Organisation(name, np.flatnonzero(codes == code))
        for code, name in enumerate(_distinct_slugs(values.tolist()))
    ]


def _distinct_slugs(values: Sequence[str]) -> list[str]:
    names: list[str] = []
    for value in values:
        slug = re.sub(r"[\W_]+", "-", value.casefold()).strip("-") or _NO_VALUE
        name, number = slug, 2
        while name in names:
            name, number = f"{slug}-{number}", number + 1
        names.append(name)
    return names


def _by_genre(
    dataset: Dataset, alpha: float, organisations: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """``[users] int64``: the organisation of every user."""
    favourite = favourite_genres(dataset.catalogue, dataset.histories)
    chosen = np.empty(len(favourite), dtype=np.int64)
    for genre in np.unique(favourite):
        members = np.flatnonzero(favourite == genre)
        shares = generator.dirichlet(np.full(organisations, alpha))
        chosen[members] = generator.choice(organisations, size=len(members), p=shares)
    sizes = np.bincount(chosen, minlength=organisations)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(np.argmax(sizes))
        moved = generator.choice(np.flatnonzero(chosen == largest))
        chosen[moved] = empty
        sizes[largest] -= 1
        sizes[empty] += 1
    return chosen


def favourite_genres(catalogue: Catalogue, histories: PrivateHistories) -> npt.NDArray[np.int64]:
    """``[users] int64``: a code of the genre that is first of most items in a user's history.

    Genres come from the attribute ``genres`` or, without one, the first attribute that is not the
    year. The first in the alphabet wins a tie; -1 stands for users whose items have no genre.

    Raises:
        ConfigError: if the items have no such attribute.
    """
    names = sorted((n for n in catalogue.attributes if n != "year"), key=lambda n: n != "genres")
    if not names:
        raise ConfigError(
            "partition.scheme is dirichlet, but the items have no attribute to take a genre from; "
            f"give them a column genres, or use another scheme; expected {SCHEMES}"
        )
    first = [
        re.split(r"[,;|]", value, maxsplit=1)[0].strip() for value in catalogue.attributes[names[0]]
    ]
    genres, codes = np.unique(np.array(first), return_inverse=True)
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    known = genres[codes[histories.items]] != ""
    pairs, counts = np.unique(
        users[known] * len(genres) + codes[histories.items[known]], return_counts=True
    )
    # Ascending pairs put genres in order of the alphabet; a stable sort by falling count keeps it.
    order = np.lexsort((pairs, -counts, pairs // len(genres)))
    owners, best = np.unique(pairs[order] // len(genres), return_index=True)
    favourite = np.full(len(histories), -1, dtype=np.int64)
    favourite[owners] = pairs[order][best] % len(genres)
    return favourite
