"""Synthetic histories and items of any size, from a generative model that is written down here.

It serves load tests and demonstrations; it is no stand-in for real data in a claim about quality.
With T = 16 themes, ``Dir`` the Dirichlet distribution, and the constants below:

Items. Titles come in series of 1, 2 or 3 parts (``SERIES_LENGTHS``). An item i has one to three
themes (``THEME_COUNTS``) with weights W[i, k] that add up to 1 (``THEME_WEIGHTS``); parts of a
series share them. Title and summary are built from words of its themes, so that text tells themes.
Popularity follows a flattened Zipf law (Mandelbrot 1953), with a rank drawn at random:

    p[i] = (rank[i] + ZIPF_SHIFT) ** -ZIPF_EXPONENT * (SEQUEL_FACTOR if i is a later part else 1)

Organisations. Organisation o has its own mix m[o] ~ Dir(1) of themes; its share of users is drawn
from Dir(ORGANISATION_EVENNESS), and it has one user at least.

Users. User u of organisation o begins with a taste a[u] and ends with a taste b[u], both from
Dir(TASTE (T m[o] + 1) / 2), and a drift d[u] ~ Beta(2, 2). After a share s of the history

    theta[u](s) = (1 - d[u] s) a[u] + d[u] s b[u]

History lengths are exp(Normal(log LENGTH_MEDIAN, LENGTH_SPREAD)), rounded and cut to [5, 500], and
to half of the catalogue where it is small.

Interactions. After a part of a series its next part follows with probability ``FOLLOWS``.
Otherwise the next item comes with probability ``POPULAR`` from p alone, and else from the taste:

    P(i | u, s) = sum_k theta[u](s)[k] * p[i] W[i, k] / sum_j p[j] W[j, k]

An item that the user has had is passed over; who has not found enough new items after
``PASSES_BY_TASTE`` passes takes the rest evenly from the whole catalogue. Time gaps are
log-normal, in whole seconds, with a median of four hours. With the match t = sum_k theta[u](s)[k]
W[i, k], quality g[i] ~ Normal(0, 0.35), mildness h[u] ~ Normal(0, 0.35) and e ~ Normal(0, 0.5), a
rating is

    2.6 + 2 t + g[i] + h[u] + e, rounded to halves and cut to [0.5, 5]
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import ConfigError
from shared.files import atomic_path
from simulations.synth_titles import THEMES, invent_texts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

USERS_PER_GROUP = 1024
FEWEST_ITEMS, MOST_ITEMS = 50, 200_000
FEWEST_INTERACTIONS, MOST_INTERACTIONS = 5, 500

SERIES_LENGTHS = (0.8, 0.1, 0.1)
THEME_COUNTS = (0.5, 0.35, 0.15)
THEME_WEIGHTS = ((1.0, 0.0, 0.0), (0.7, 0.3, 0.0), (0.6, 0.25, 0.15))
ZIPF_EXPONENT, ZIPF_SHIFT, SEQUEL_FACTOR = 1.0, 5.0, 0.4
ORGANISATION_EVENNESS, TASTE = 5.0, 0.06
LENGTH_MEDIAN, LENGTH_SPREAD = 40.0, 0.9
FOLLOWS, POPULAR, PASSES_BY_TASTE = 0.7, 0.15, 8
GAP_MEDIAN_S, GAP_SPREAD = 4 * 3600.0, 1.5
FIRST_DAY_S, LAST_DAY_S = 1_420_070_400, 1_609_459_200  # starts of 2015 and 2021, UTC
FIRST_YEAR, LAST_YEAR = 1950, 2014  # every item is older than every history

_INTERACTIONS = pa.schema(
    {
        "user": pa.string(),
        "item": pa.string(),
        "timestamp": pa.int64(),
        "rating": pa.float32(),
        "organisation": pa.string(),
    }
)


@dataclass(frozen=True)
class _Items:
    """The catalogue: ``themes`` and ``weights`` are ``[items, 3]``, the rest ``[items]``."""

    ids: pa.Array
    themes: Ints
    weights: Floats
    later_parts: Ints
    quality: Floats
    choice: Floats  # _cumulative [T + 2, items]: by theme, by popularity alone, and evenly


@dataclass(frozen=True)
class _Organisations:
    """Names, cumulative shares of users ``[organisations]`` and concentrations ``[., T]``."""

    names: pa.Array
    shares: Floats
    concentrations: Floats


def synthesise(
    users: int,
    items: int,
    organisations: int,
    seed: int,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``items.parquet`` and ``interactions.parquet`` into the folder ``out``.

    ``items.parquet`` has the columns item, title, year, genres (themes, separated by ``|``) and
    summary, all text but the year (int32). ``interactions.parquet`` has user, item, organisation
    (text), timestamp (int64, seconds since 1970) and rating (float32, 0.5 to 5), sorted by user and
    time, in row groups of 1,024 users, so that memory does not grow with their number. The same
    arguments give the same files.

    Args:
        users: number of users, at least one for each organisation.
        items: size of the catalogue, 50 to 200,000.
        organisations: number of organisations, named ``org-1`` onwards.
        seed: of everything in the files.
        out: folder, made if absent; a file is replaced only by a complete one.
        progress: called with (users written, users in all) after every row group.

    Raises:
        ConfigError: for sizes that cannot be.
    """
    _check(users, items, organisations, seed)
    catalogue, table = _make_items(items, np.random.default_rng([seed, 0]))
    houses = _make_organisations(organisations, np.random.default_rng([seed, 1]))
    with atomic_path(out / "items.parquet") as path:
        pq.write_table(table, path)
    with (
        atomic_path(out / "interactions.parquet") as path,
        pq.ParquetWriter(path, _INTERACTIONS) as writer,
    ):
        for group, start in enumerate(range(0, users, USERS_PER_GROUP)):
            numbers = np.arange(start, min(start + USERS_PER_GROUP, users))
            group_rng = np.random.default_rng([seed, 2, group])
            writer.write_table(_interactions(numbers, catalogue, houses, group_rng))
            if progress is not None:
                progress(int(numbers[-1]) + 1, users)


def _check(users: int, items: int, organisations: int, seed: int) -> None:
    if not FEWEST_ITEMS <= items <= MOST_ITEMS:
        raise ConfigError(
            f"data.synthetic_items: found {items}; a synthetic catalogue has {FEWEST_ITEMS} to "
            f"{MOST_ITEMS:,} items; choose a number in between"
        )
    if organisations < 1:
        raise ConfigError(
            f"partition.organisations: found {organisations}; at least one organisation is needed"
        )
    if users < organisations:
        raise ConfigError(
            f"data.synthetic_users: found {users} for {organisations} organisations; every "
            "organisation needs a user; ask for more users or fewer organisations"
        )
    if seed < 0:
        raise ConfigError(f"run.seed: found {seed}; a seed is 0 or a positive number")


def _make_items(items: int, rng: np.random.Generator) -> tuple[_Items, pa.Table]:
    lengths = 1 + rng.choice(3, size=items, p=SERIES_LENGTHS)
    series = np.repeat(np.arange(items), lengths)[:items]
    part = np.arange(items) - np.searchsorted(series, series)
    later_parts = np.searchsorted(series, series, side="right") - 1 - np.arange(items)
    # 50 items are 17 series at least, so that no theme is left without an item.
    main = np.concatenate([rng.permutation(len(THEMES)), rng.choice(len(THEMES), size=items)])
    steps = 1 + rng.random((items, len(THEMES) - 1)).argsort(axis=1)[:, :2]
    themes = (main[:items, None] + np.insert(steps, 0, 0, axis=1)) % len(THEMES)
    further = rng.choice(3, size=items, p=THEME_COUNTS)[series]
    themes, weights = themes[series], np.array(THEME_WEIGHTS)[further]

    popularity = (rng.permutation(items) + 1 + ZIPF_SHIFT) ** -ZIPF_EXPONENT
    popularity *= np.where(part > 0, SEQUEL_FACTOR, 1.0)
    by_theme = np.zeros((len(THEMES), items))
    by_theme[themes, np.arange(items)[:, None]] = weights * popularity[:, None]
    choice = _cumulative(np.vstack([by_theme, popularity, np.ones(items)]))
    years = rng.integers(FIRST_YEAR, LAST_YEAR - 4, size=items)[series] + 2 * part
    texts = invent_texts(themes, 1 + further, series, part, rng)
    ids = pa.array([f"i{i + 1:06d}" for i in range(items)])
    catalogue = _Items(ids, themes, weights, later_parts, rng.normal(0, 0.35, items), choice)
    return catalogue, pa.table(
        {
            "item": ids,
            "title": pa.array(texts.titles),
            "year": pa.array(years.astype(np.int32)),
            "genres": pa.array(texts.genres),
            "summary": pa.array(texts.summaries),
        }
    )


def _make_organisations(organisations: int, rng: np.random.Generator) -> _Organisations:
    mixes = rng.dirichlet(np.ones(len(THEMES)), size=organisations)
    shares = rng.dirichlet(np.full(organisations, ORGANISATION_EVENNESS))
    return _Organisations(
        names=pa.array([f"org-{o + 1}" for o in range(organisations)]),
        shares=_cumulative(shares[None, :]),
        concentrations=TASTE * (len(THEMES) * mixes + 1) / 2,
    )


def _interactions(
    numbers: Ints, items: _Items, houses: _Organisations, rng: np.random.Generator
) -> pa.Table:
    """All interactions of the users ``numbers``, sorted by user and time."""
    drawn = _categorical(np.zeros(len(numbers), np.int64), houses.shares, rng)
    organisation = np.where(numbers < len(houses.names), numbers, drawn)
    # A Dirichlet draw is a normalised row of gammas; the floor keeps a row of zeros apart from NaN.
    gammas = np.maximum(
        rng.standard_gamma(np.stack([houses.concentrations[organisation]] * 2)), 1e-12
    )
    tastes = gammas / gammas.sum(axis=2, keepdims=True)
    drift = rng.beta(2, 2, len(numbers))
    wished = np.exp(rng.normal(np.log(LENGTH_MEDIAN), LENGTH_SPREAD, len(numbers))).round()
    most = min(MOST_INTERACTIONS, items.choice.shape[1] // 2)
    lengths = wished.clip(FEWEST_INTERACTIONS, most).astype(np.int64)

    user, item = _choose(lengths, tastes, drift, items, rng)
    starts = np.cumsum(lengths) - lengths
    share = (np.arange(len(user)) - starts[user]) / lengths[user]
    later = (drift[user] * share)[:, None]
    themes = items.themes[item]
    taste = (1 - later) * tastes[0][user[:, None], themes]
    taste += later * tastes[1][user[:, None], themes]
    rating = 2.6 + 2 * (taste * items.weights[item]).sum(axis=1) + items.quality[item]
    rating += rng.normal(0, 0.35, len(numbers))[user] + rng.normal(0, 0.5, len(user))
    gaps = np.exp(rng.normal(np.log(GAP_MEDIAN_S), GAP_SPREAD, len(user))).astype(np.int64) + 1
    elapsed = np.cumsum(gaps)
    begin = rng.integers(FIRST_DAY_S, LAST_DAY_S, len(numbers))
    ids = pa.array([f"u{n + 1:07d}" for n in numbers])
    return pa.table(
        {
            "user": ids.take(pa.array(user)),
            "item": items.ids.take(pa.array(item)),
            "timestamp": begin[user] + elapsed - elapsed[starts][user],
            "rating": ((rating * 2).round() / 2).clip(0.5, 5.0).astype(np.float32),
            "organisation": houses.names.take(pa.array(organisation[user])),
        },
        schema=_INTERACTIONS,
    )


def _choose(
    lengths: Ints, tastes: Floats, drift: Floats, items: _Items, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Users and the distinct items of their histories in order, ``[sum of lengths]`` each."""
    user = item = np.empty(0, np.int64)
    taste_choice = _cumulative(tastes.reshape(2 * len(lengths), -1))
    for attempt in count():
        have = np.bincount(user, minlength=len(lengths))
        missing = lengths - have
        if not missing.any():
            break
        draws = np.where(missing > 0, missing + missing // 2 + 4, 0)
        drawer = np.repeat(np.arange(len(lengths)), draws)
        order = np.arange(len(drawer)) - (np.cumsum(draws) - draws)[drawer]
        share = (have[drawer] + missing[drawer] * order / draws[drawer]) / lengths[drawer]
        turned = rng.random(len(drawer)) < drift[drawer] * share
        row = _categorical(drawer + len(lengths) * turned, taste_choice, rng)
        row[rng.random(len(drawer)) < POPULAR] = len(THEMES)
        if attempt >= PASSES_BY_TASTE:
            row[:] = len(THEMES) + 1
        drawn = _categorical(row, items.choice, rng)
        following = np.minimum(rng.geometric(1 - FOLLOWS, len(drawn)) - 1, items.later_parts[drawn])
        chain = np.repeat(np.arange(len(drawn)), 1 + following)
        step = np.arange(len(chain)) - (np.cumsum(1 + following) - 1 - following)[chain]
        user = np.concatenate([user, drawer[chain]])
        item = np.concatenate([item, drawn[chain] + step])
        user, item = _first_times(user, item, lengths)
    return user, item


def _first_times(user: Ints, item: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Each user's items without repetition, sorted by user, the first ``lengths`` of them."""
    first = np.unique(user * (item.max() + 1) + item, return_index=True)[1]
    first = first[np.lexsort((first, user[first]))]
    user, item = user[first], item[first]
    place = np.arange(len(user)) - np.searchsorted(user, user)
    kept = place < lengths[user]
    return user[kept], item[kept]


def _cumulative(weights: Floats) -> Floats:
    """Row r of ``[rows, choices]`` weights as cumulative probabilities in (r, r + 1]."""
    sums = np.cumsum(weights, axis=1)
    table: Floats = sums / sums[:, -1:] + np.arange(len(weights))[:, None]
    return table


def _categorical(rows: Ints, table: Floats, rng: np.random.Generator) -> Ints:
    """One choice for every entry of ``rows``, from that row of a ``_cumulative`` table."""
    drawn = np.searchsorted(table.ravel(), rows + rng.random(len(rows)), side="right")
    # A draw next to 1 can round up to the next row's first choice.
    chosen: Ints = np.minimum(drawn - rows * table.shape[1], table.shape[1] - 1)
    return chosen
