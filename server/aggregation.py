"""Aggregation: sums of statistics, weighted means of updates, and the server's optimiser."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shared.adapters import Arrays, check_arrays
from shared.config import ServerSection, StatisticsSection
from shared.errors import FederationError
from shared.messages import Reply
from shared.plan import Mechanism
from shared.ratings import HEAD
from shared.statistics import (
    Floats,
    log_popularity,
    most_popular,
    transition_matrix,
    triangle_size,
)

ADAM_FLOOR = 1e-8
# Where none is configured. Chosen on validation items (docs/utility.md).
RATES = {"momentum": 3.0, "normalised": 1.2, "adam": 0.015}
HEAD_RATE = 0.05


@dataclass(frozen=True)
class Popularity:
    """Sum of all organisations' noisy P, over the union of their catalogues.

    Attributes:
        keys: ``[items] uint64``, ascending.
        noisy: ``[items] float64``.
        deviation: ``[items] float64``: of the noise in each sum; more houses, more noise.
    """

    keys: npt.NDArray[np.uint64]
    noisy: Floats
    deviation: Floats


def check_popularity(reply: Reply, mechanism: Mechanism) -> None:
    """Refuse a malformed release of P, or one longer than can be.

    Raises:
        FederationError: names the organisation and what does not fit.
    """
    _check_keyed(reply, mechanism, expected=lambda keys: keys)


def sum_popularity(replies: Sequence[Reply], mechanism: Mechanism) -> Popularity:
    """Add up P by key; the replies were checked."""
    parts = [(reply.arrays["keys"], reply.arrays["values"]) for reply in replies]
    keys = np.unique(np.concatenate([k for k, _ in parts]))
    noisy, houses = np.zeros(len(keys)), np.zeros(len(keys))
    for own, values in parts:
        place = np.searchsorted(keys, own)
        np.add.at(noisy, place, values)
        np.add.at(houses, place, 1.0)
    return Popularity(keys, noisy, mechanism.deviation * np.sqrt(houses))


def covered_items(popularity: Popularity, options: StatisticsSection) -> npt.NDArray[np.int64]:
    """Places of the items that G will cover, from the noisy P alone."""
    return most_popular(popularity.noisy, popularity.deviation, options)


def check_cooccurrence(
    reply: Reply, mechanism: Mechanism, popularity: Popularity, top: npt.NDArray[np.int64]
) -> None:
    """Refuse a malformed release of G, one over items that were not asked for, or a too long one.

    Raises:
        FederationError: names the organisation and what does not fit.
    """
    _check_keyed(reply, mechanism, expected=triangle_size)
    own = reply.arrays["keys"]
    if len(np.unique(own)) != len(own) or not np.isin(own, popularity.keys[top]).all():
        raise FederationError(f"{reply.name}: co-occurrence of items that were not asked for")


def sum_cooccurrence(
    replies: Sequence[Reply], popularity: Popularity, top: npt.NDArray[np.int64]
) -> Floats:
    """Add up G, each triangle placed into that of all ``top``; the replies were checked."""
    size = len(top)
    place_of = {int(key): place for place, key in enumerate(popularity.keys[top])}
    total = np.zeros((size, size))
    for reply in replies:
        own = reply.arrays["keys"]
        place = np.array([place_of[int(key)] for key in own], dtype=np.int64)
        rows, columns = np.triu_indices(len(own), 1)
        np.add.at(total, (place[rows], place[columns]), reply.arrays["values"])
    both = total + total.T
    return np.asarray(both[np.triu_indices(size, 1)])


def statistics_arrays(
    popularity: Popularity,
    top: npt.NDArray[np.int64],
    triangle: Floats,
    pair_deviation: float,
    options: StatisticsSection,
) -> dict[str, npt.NDArray[np.generic]]:
    """What is handed back to the organisations: post-processed, free of further cost.

    Args:
        popularity: of all.
        top, triangle: items of G and its noisy sums.
        pair_deviation: of the noise in a sum; the greatest where houses share only some items.
        options: of the post-processing.
    """
    transition = transition_matrix(
        triangle, popularity.noisy[top], popularity.deviation[top], pair_deviation, options
    )
    floor = log_popularity(np.zeros(1), float(popularity.deviation.max(initial=0.0)))
    return {
        "keys": popularity.keys,
        "log_popularity": log_popularity(popularity.noisy, popularity.deviation),
        "top": top,
        "transition": transition.astype(np.float32),
        "floor": floor,
    }


def no_statistics() -> dict[str, npt.NDArray[np.generic]]:
    """Where a run has no statistics: a prior that knows no item and a G over none."""
    return {
        "keys": np.empty(0, dtype=np.uint64),
        "log_popularity": np.empty(0),
        "top": np.empty(0, dtype=np.int64),
        "transition": np.empty((0, 0), dtype=np.float32),
        "floor": np.zeros(1),
    }


def weighted_mean(updates: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """Mean of updates by public weights, accumulated in float64.

    With the frozen A of FFA-LoRA the mean of B times A is the mean of the products: aggregation is
    exact (Sun et al., ICLR 2024).
    """
    total = math.fsum(weights)
    if not updates or total <= 0.0:
        raise FederationError("there is no update to average")
    sums = {name: np.zeros(value.shape) for name, value in updates[0].items()}
    for update, weight in zip(updates, weights, strict=True):
        for name, part in update.items():
            sums[name] += np.multiply(part, weight / total, dtype=np.float64)
    return {name: value.astype(np.float32) for name, value in sums.items()}


@dataclass
class ServerOptimizer:
    """Turns the mean update of a round into a step of the adapter.

    ``average`` adds it; ``momentum`` adds a decaying sum of updates, scaled by the learning rate;
    ``normalised`` scales that sum to the length of the learning rate, so that neither loud noise
    nor small gradients decide how far a round goes (Cutkosky and Mehta 2020, arXiv 2002.03305);
    ``adam`` is FedAdam (Reddi et al. 2021, arXiv 2003.00295) with bias correction.

    A rating head beside the adapter goes by ``adam`` where the adapter goes by ``normalised``: its
    coordinates differ in scale, and of a fixed length the bias would take most.
    """

    options: ServerSection
    round: int = 0
    first: Arrays = field(default_factory=dict)
    second: Arrays = field(default_factory=dict)

    def step(self, adapter: Arrays, update: Arrays) -> Arrays:
        """The next adapter; advances the optimiser's state."""
        self.round += 1
        optimizer, beta = self.options.optimizer, self.options.momentum
        if optimizer == "average":
            return {name: adapter[name] + update[name] for name in adapter}
        self.first = {
            name: beta * self.first.get(name, np.zeros_like(value)) + (1.0 - beta) * value
            for name, value in update.items()
        }
        rate = self.options.learning_rate or RATES[optimizer]
        if optimizer == "adam":
            moves = self._adam(update, rate)
        elif optimizer == "momentum":
            step = rate / (1.0 - beta**self.round)
            moves = {name: step * value for name, value in self.first.items()}
        else:
            head = {name: value for name, value in update.items() if name.startswith(HEAD)}
            rest = {name: value for name, value in self.first.items() if name not in head}
            norm = math.sqrt(squared_norm(rest))
            step = rate / norm if norm else 0.0
            moves = {name: step * value for name, value in rest.items()}
            moves |= self._adam(head, HEAD_RATE)
        return {name: (adapter[name] + moves[name]).astype(np.float32) for name in adapter}

    def _adam(self, update: Arrays, rate: float) -> Arrays:
        """Moves of some arrays, whose first moments are up to date."""
        beta, gamma = self.options.momentum, self.options.second_momentum
        self.second |= {
            name: gamma * self.second.get(name, np.zeros_like(value)) + (1.0 - gamma) * value**2
            for name, value in update.items()
        }
        first, second = 1.0 - beta**self.round, 1.0 - gamma**self.round
        return {
            name: rate
            * (self.first[name] / first)
            / (np.sqrt(self.second[name] / second) + ADAM_FLOOR)
            for name in update
        }


@dataclass
class IterateAverage:
    """Mean of the adapters of the last share of rounds (tail averaging): post-processing, free."""

    share: float
    rounds: int
    count: int = 0
    mean: Arrays = field(default_factory=dict)

    def add(self, round_number: int, adapter: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Take a round's adapter in, if it lies in the averaged tail."""
        if round_number <= self.rounds - round(self.share * self.rounds):
            return
        self.count += 1
        weight = 1.0 / self.count
        self.mean = {
            name: (
                self.mean.get(name, np.zeros_like(value)) * (1.0 - weight) + weight * value
            ).astype(np.float32)
            for name, value in adapter.items()
        }

    def result(self, last: Arrays) -> Arrays:
        """The averaged adapter, or the last one where nothing was averaged."""
        return self.mean if self.count else last


@dataclass
class Signal:
    """How much of the updates is signal: what was noised is known, so the rest can be estimated.

    The mean update of T rounds is signal plus noise whose deviation the plan gives. Its energy less
    that of the noise, and less two standard errors of the noise's energy (a signal that cannot be
    told from noise counts as none), over its energy is the share of signal: the factor of Wiener's
    filter. It is post-processing, free of privacy cost; an adapter is shrunk by it towards a warm
    start (``shared.scoring``).
    """

    total: Arrays = field(default_factory=dict)
    rounds: int = 0
    noise_variance: float = 0.0

    def add(self, update: Arrays, noise_deviation: float) -> None:
        """Take a round's mean update in, with the deviation of the noise in each coordinate."""
        self.rounds += 1
        self.noise_variance += noise_deviation**2
        self.total = {
            name: self.total.get(name, np.zeros_like(value)) + value
            for name, value in update.items()
        }

    def reliability(self) -> float:
        """Share of signal in the mean update, in [0, 1]; 1 without noise, 0 before any round."""
        if not self.rounds:
            return 0.0
        if not self.noise_variance:
            return 1.0
        coordinates = sum(value.size for value in self.total.values())
        energy = squared_norm(self.total) / self.rounds**2
        noise = coordinates * self.noise_variance / self.rounds**2
        return max(0.0, 1.0 - noise * (1.0 + 2.0 * math.sqrt(2.0 / coordinates)) / energy)


def noise_deviation(
    replies: Sequence[Reply], mechanism: Mechanism, steps: int, step_size: float
) -> float:
    """Deviation of the noise in each coordinate of the weighted mean update of a round."""
    total = sum(reply.declared_users for reply in replies)
    scale = mechanism.deviation * math.sqrt(len(replies) * steps) * step_size
    return scale / (mechanism.sampling_rate * total)


def arrays_of(flat: Floats, like: Arrays) -> Arrays:
    """Named arrays from their values one after the other, in order of name.

    Args:
        flat: ``[coordinates] float64``.
        like: names and shapes.
    """
    ends = np.cumsum([like[name].size for name in sorted(like)])
    parts = dict(zip(sorted(like), np.split(flat, ends[:-1]), strict=True))
    return {
        name: parts[name].reshape(value.shape).astype(np.float32) for name, value in like.items()
    }


def squared_norm(arrays: Mapping[str, npt.NDArray[np.float32]]) -> float:
    """Sum of squares over all arrays."""
    return math.fsum(float((value.astype(np.float64) ** 2).sum()) for value in arrays.values())


def check_update(
    reply: Reply, shapes: Mapping[str, tuple[int, ...]], mechanism: Mechanism, reach: float
) -> None:
    """Refuse an adapter update of a wrong shape, that is not finite, or longer than can be.

    Args:
        reply: of a client.
        shapes: of the adapter's arrays.
        mechanism: of a step.
        reach: private steps of a round times their step size.

    Raises:
        FederationError: names the organisation and what does not fit.
    """
    try:
        check_arrays(shapes, reply.arrays)
    except FederationError as error:
        raise FederationError(f"{reply.name}: {error}") from error
    norm = math.sqrt(squared_norm(reply.arrays))
    coordinates = sum(math.prod(shape) for shape in shapes.values())
    divisor = mechanism.sampling_rate * reply.declared_users
    # Twice what clipped gradients of all declared users and noise of the planned size add up to.
    bound = (
        2.0
        * reach
        * (
            mechanism.sensitivity / mechanism.sampling_rate
            + mechanism.deviation * math.sqrt(coordinates) / divisor
        )
    )
    if norm > bound:
        raise FederationError(
            f"{reply.name}: update of norm {norm:.3g}, at most {bound:.3g} is possible"
        )


def _check_keyed(reply: Reply, mechanism: Mechanism, expected: Callable[[int], int]) -> None:
    keys, values = reply.arrays.get("keys"), reply.arrays.get("values")
    if keys is None or values is None or keys.dtype != np.uint64 or values.dtype != np.float32:
        raise FederationError(f"{reply.name}: expected keys of uint64 and values of float32")
    if keys.ndim != 1 or values.shape != (expected(len(keys)),):
        raise FederationError(
            f"{reply.name}: keys of shape {keys.shape} but values of shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise FederationError(f"{reply.name}: values that are not finite")
    # A user's row has at most the sensitivity's norm; twice that and the planned noise is ample.
    bound = 2.0 * (
        reply.declared_users * mechanism.sensitivity + mechanism.deviation * math.sqrt(values.size)
    )
    norm = math.sqrt(squared_norm({"values": values}))
    if norm > bound:
        raise FederationError(
            f"{reply.name}: a {mechanism.name} of norm {norm:.3g}; at most {bound:.3g} is possible"
        )
