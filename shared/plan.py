"""The privacy plan: the one object from which sampler, noise and accounting event all come.

No other code takes a sampling rate or a noise multiplier of its own, so that what is sampled, what
is added and what is accounted cannot disagree.
"""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shared.accounting import Event, Events, calibrate, epsilon_checked, merged
from shared.config import Config, PrivacySection
from shared.errors import PrivacyError
from shared.fixed_point import WORD_BYTES, word_bytes
from shared.grid import GRID_BITS, PLAIN_BITS, SECURE_BITS, noised_on_grid
from shared.randomness import PrivateRandom
from shared.tolerance import check_tolerance, least_participants, noise_share


class Adjacency(StrEnum):
    """The neighbouring relation; one for the whole project."""

    ADD_OR_REMOVE_ONE = "add or remove one user"


class Noise(StrEnum):
    """Who adds the noise. ``shared`` simulates a trusted sum and exists in simulation only."""

    OWN = "own"
    SHARED = "shared"
    NONE = "none"


class Aggregation(StrEnum):
    """What the server gets: what each organisation sends, or their sum alone."""

    PLAIN = "plain"
    SECURE = "secure"


MECHANISMS = ("popularity", "cooccurrence", "step", "evaluation")

# L2 bound of one user's row where it is no choice: (hit, discounted gain, 1) of an evaluation has
# three entries of at most 1.
SENSITIVITY = {"popularity": 1.0, "cooccurrence": 1.0, "evaluation": math.sqrt(3.0)}


@dataclass(frozen=True)
class Mechanism:
    """A Poisson-sampled Gaussian mechanism over a sum of users' rows.

    Attributes:
        name: one of ``MECHANISMS``.
        sampling_rate: probability with which each user enters, independently; in (0, 1].
        noise_multiplier: deviation of the noise over the sensitivity; 0 is no noise.
        sensitivity: L2 bound of one user's row.
        noise_share: part of the deviation that one organisation adds: 1, or 1 / sqrt(organisations)
            where the sum of all is released once.
        distribution: ``gaussian``, or ``discrete`` on a grid (``shared.grid``).
        grid_bits: the grid's spacing is the power of two next below ``2**-grid_bits`` of the
            sensitivity; 0 where there is no grid.
    """

    name: str
    sampling_rate: float
    noise_multiplier: float
    sensitivity: float
    noise_share: float = 1.0
    distribution: str = "gaussian"
    grid_bits: int = 0

    def __post_init__(self) -> None:
        if self.name not in MECHANISMS:
            raise PrivacyError(f"{self.name!r} is no mechanism; there are {', '.join(MECHANISMS)}")
        if self.distribution not in ("gaussian", "discrete"):
            raise PrivacyError(f"{self.name}: noise {self.distribution!r} is no distribution")
        on_grid = self.distribution == "discrete"
        if type(self.grid_bits) is not int or (self.grid_bits in GRID_BITS) != on_grid:
            raise PrivacyError(
                f"{self.name}: {self.distribution} noise with a grid of {self.grid_bits!r} bits"
            )
        figures = (self.sampling_rate, self.noise_multiplier, self.sensitivity, self.noise_share)
        if any(type(figure) is not float for figure in figures):
            raise PrivacyError(f"{self.name}: {figures} are not all decimal numbers")
        if not 0.0 < self.sampling_rate <= 1.0:
            raise PrivacyError(f"{self.name}: sampling rate {self.sampling_rate} is not in (0, 1]")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0.0):
            raise PrivacyError(f"{self.name}: noise multiplier {self.noise_multiplier} is no size")
        if not (math.isfinite(self.sensitivity) and self.sensitivity > 0.0):
            raise PrivacyError(f"{self.name}: sensitivity {self.sensitivity} is no bound")
        if not 0.0 < self.noise_share <= 1.0:
            raise PrivacyError(f"{self.name}: noise share {self.noise_share} is not in (0, 1]")

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise that one organisation adds to each coordinate."""
        return self.noise_multiplier * self.sensitivity * self.noise_share

    def sample(self, users: int, random: PrivateRandom) -> npt.NDArray[np.int64]:
        """Places of the users that enter, each independently with ``sampling_rate``."""
        if self.sampling_rate == 1.0:
            return np.arange(users)
        return np.flatnonzero(random.generator.random(users) < self.sampling_rate)

    def noise(self, shape: tuple[int, ...], random: PrivateRandom) -> npt.NDArray[np.float64]:
        """Gaussian noise of the planned deviation, drawn in float64."""
        if self.deviation == 0.0:
            return np.zeros(shape)
        return random.generator.normal(0.0, self.deviation, size=shape)

    def noised(
        self, total: npt.NDArray[np.float64], random: PrivateRandom
    ) -> npt.NDArray[np.float64]:
        """A sum over users with noise, of the planned distribution."""
        if self.distribution == "discrete" and self.deviation > 0.0:
            return noised_on_grid(total, self.sensitivity, self.deviation, self.grid_bits, random)
        return total + self.noise(total.shape, random)

    def event(self, count: int = 1, binds: str = "joint") -> Event:
        """What ``count`` releases cost.

        Args:
            count: of releases.
            binds: ``joint``, by the noise in the sum of all; ``alone``, by what one organisation
                adds itself.
        """
        own = self.noise_share if binds == "alone" else 1.0
        return Event(self.sampling_rate, self.noise_multiplier * own, count)


@dataclass(frozen=True)
class PrivacyPlan:
    """What a run will release of each organisation, and what that costs.

    Attributes:
        popularity: mechanism of P, or None where the run has no statistics.
        cooccurrence: mechanism of G, or None.
        evaluation: mechanism of the evaluation at the end, or None.
        step: mechanism of one private step, or None where the run has no adapter rounds.
        steps: private steps in the whole run.
        delta: at which epsilon is stated.
        epsilon: budget that the whole plan keeps to; None without noise.
        noise: who adds it.
        adjacency: the neighbouring relation.
        aggregation: what the server gets.
        least_participants: fewest organisations in a sum; noise is shared so that what these add,
            less ``colluders``, is the planned noise.
        colluders: organisations that may join hands with the server.
        word_bytes: of a number in a masked vector; 0 where nothing is masked.
    """

    popularity: Mechanism | None
    cooccurrence: Mechanism | None
    step: Mechanism | None
    evaluation: Mechanism | None
    steps: int
    delta: float
    epsilon: float | None
    noise: Noise
    adjacency: Adjacency = Adjacency.ADD_OR_REMOVE_ONE
    aggregation: Aggregation = Aggregation.PLAIN
    least_participants: int = 1
    colluders: int = 0
    word_bytes: int = 0

    def __post_init__(self) -> None:
        for name in MECHANISMS:
            mechanism = getattr(self, name)
            if mechanism is not None and mechanism.name != name:
                raise PrivacyError(f"the plan's {name} is a mechanism named {mechanism.name!r}")
        if type(self.steps) is not int or self.steps < 0:
            raise PrivacyError(f"the plan has {self.steps!r} steps; it needs a whole number")
        if not 0.0 < self.delta < 1.0:
            raise PrivacyError(f"the plan's delta {self.delta} is not between 0 and 1")
        self._check_aggregation()
        if self.epsilon is not None and not 0.0 < self.epsilon < math.inf:
            raise PrivacyError(f"the plan's epsilon {self.epsilon} is no budget")

    def _check_aggregation(self) -> None:
        figures = self.least_participants, self.colluders, self.word_bytes
        if any(type(figure) is not int or figure < 0 for figure in figures):
            raise PrivacyError(f"the plan's aggregation has figures {figures} that are no counts")
        if self.aggregation is Aggregation.PLAIN:
            if figures != (1, 0, 0):
                raise PrivacyError("the plan's sums are plain, but it has figures of a secure one")
            return
        if self.word_bytes not in WORD_BYTES:
            raise PrivacyError(
                f"the plan's masked numbers have {self.word_bytes} bytes; they need "
                f"{WORD_BYTES[0]} to {WORD_BYTES[-1]}"
            )
        check_tolerance(self.least_participants, self.least_participants, self.colluders)
        for mechanism in self.mechanisms:
            if (mechanism.distribution, mechanism.grid_bits) != ("discrete", SECURE_BITS):
                raise PrivacyError(f"{mechanism.name}: a secure sum is taken on its own grid")

    def mechanism(self, name: str) -> Mechanism:
        """The mechanism of that name.

        Raises:
            PrivacyError: if the plan has none.
        """
        for mechanism in self.mechanisms:
            if mechanism.name == name:
                return mechanism
        raise PrivacyError(f"the plan has no mechanism {name!r}")

    @property
    def secure(self) -> bool:
        """Whether the server gets the sum of all organisations alone."""
        return self.aggregation is Aggregation.SECURE

    @property
    def mechanisms(self) -> tuple[Mechanism, ...]:
        """Those that the plan has, in the order of ``MECHANISMS``."""
        found = (getattr(self, name) for name in MECHANISMS)
        return tuple(mechanism for mechanism in found if mechanism is not None)

    def releases(self, name: str) -> int:
        """How often the mechanism of that name is released: private steps, or once."""
        return self.steps if name == "step" else 1

    def events(self, steps: int | None = None, binds: str = "joint") -> Events:
        """Cost of the one-shot releases and of the first ``steps`` steps (by default all).

        Args:
            steps: private steps; None: all of the run.
            binds: as of ``Mechanism.event``.
        """
        return merged(
            m.event(self.releases(m.name) if steps is None or m.name != "step" else steps, binds)
            for m in self.mechanisms
        )

    def spent(self, steps: int | None = None, binds: str = "joint") -> float:
        """Epsilon after ``steps`` steps, by PLD and confirmed by PRV."""
        return epsilon_checked(self.events(steps, binds), self.delta)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, shortest floats; what the hash and the message carry."""
        return json.dumps(
            dataclasses.asdict(self), sort_keys=True, allow_nan=False, separators=(",", ":")
        )

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the plan; names it in ledgers, messages and checkpoints."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse and check a plan from a message.

        Raises:
            PrivacyError: for anything that is not a plan.
        """
        try:
            value: Mapping[str, Any] = json.loads(text)
            return cls(
                popularity=_mechanism(value["popularity"]),
                cooccurrence=_mechanism(value["cooccurrence"]),
                step=_mechanism(value["step"]),
                evaluation=_mechanism(value["evaluation"]),
                steps=value["steps"],
                delta=float(value["delta"]),
                epsilon=None if value["epsilon"] is None else float(value["epsilon"]),
                noise=Noise(value["noise"]),
                adjacency=Adjacency(value["adjacency"]),
                aggregation=Aggregation(value["aggregation"]),
                least_participants=value["least_participants"],
                colluders=value["colluders"],
                word_bytes=value["word_bytes"],
            )
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise PrivacyError(f"the message's privacy plan cannot be read: {error}") from error


def stated_delta(privacy: PrivacySection, users: int) -> float:
    """The delta of a run: as configured, or ``users ** -1.1``, which stays below 1 / users."""
    return privacy.delta or max(float(users), 2.0) ** -1.1


def make_plan(config: Config, users: int, organisations: int) -> PrivacyPlan:
    """Calibrate the noise of a whole run to its budget.

    The budget is split in mu squared, in which Gaussian releases add up (Dong, Roth and Su 2022,
    corollary 3.3): a part with share w of the budget gets noise multiplier ``s / sqrt(w)``; the
    steps get theirs from the central limit theorem for sampled steps (same paper, corollary 5.4),
    which for all users at once is exact. The scale s then comes from PLD, so the split is a choice
    and the epsilon is not an approximation.

    Args:
        config: of the run.
        users: of the whole federation, a public figure; delta defaults to ``users ** -1.1``.
        organisations: that take part.
    """
    privacy, training = config.privacy, config.training
    steps = training.rounds * training.steps_per_round
    delta = stated_delta(privacy, users)
    noise = Noise(privacy.noise)
    shares = {
        "popularity": privacy.popularity_share,
        "cooccurrence": privacy.cooccurrence_share,
        "step": privacy.adapter_share if steps else 0.0,
        "evaluation": privacy.evaluation_share,
    }
    if steps and not shares["step"]:
        raise PrivacyError(
            "privacy.adapter_share is 0 but training.rounds is not: give the steps a share of the "
            "budget or set training.rounds = 0"
        )
    total = sum(shares.values())
    if not total:
        raise PrivacyError("every share of the budget is 0: nothing would be released")
    weights = {name: share / total for name, share in shares.items()}

    def events(scale: float) -> Events:
        multipliers = _multipliers(weights, scale, training.sampling_rate, steps)
        return merged(
            Event(training.sampling_rate, sigma, steps) if name == "step" else Event(1.0, sigma)
            for name, sigma in multipliers.items()
        )

    if noise is Noise.NONE:
        multipliers = dict.fromkeys(weights, 0.0)
    else:
        scale = calibrate(events, privacy.epsilon, delta)
        multipliers = _multipliers(weights, scale, training.sampling_rate, steps)
    secure = config.aggregation.mode == "secure"
    colluders = config.aggregation.colluders if secure else 0
    least = (
        least_participants(organisations, config.aggregation.dropouts, colluders) if secure else 1
    )
    if secure:
        check_tolerance(organisations, least, colluders)
    share = 1.0
    if noise is Noise.SHARED:
        share = noise_share(least if secure else organisations, colluders)
    distribution = "discrete" if secure else privacy.distribution
    bits = {"gaussian": 0, "discrete": SECURE_BITS if secure else PLAIN_BITS}[distribution]

    def mechanism(name: str, rate: float, sensitivity: float) -> Mechanism | None:
        if not weights[name]:
            return None
        sigma = multipliers[name]
        return Mechanism(name, rate, sigma, sensitivity, share, distribution, bits)

    deviation = max((sigma * share for sigma in multipliers.values()), default=0.0)
    return PrivacyPlan(
        popularity=mechanism("popularity", 1.0, SENSITIVITY["popularity"]),
        cooccurrence=mechanism("cooccurrence", 1.0, SENSITIVITY["cooccurrence"]),
        step=mechanism("step", training.sampling_rate, privacy.clipping_norm),
        evaluation=mechanism("evaluation", 1.0, SENSITIVITY["evaluation"]),
        steps=steps,
        delta=delta,
        epsilon=None if noise is Noise.NONE else privacy.epsilon,
        noise=noise,
        aggregation=Aggregation.SECURE if secure else Aggregation.PLAIN,
        least_participants=least,
        colluders=colluders,
        word_bytes=word_bytes(users, organisations, deviation) if secure else 0,
    )


def _multipliers(
    weights: Mapping[str, float], scale: float, sampling_rate: float, steps: int
) -> dict[str, float]:
    result = {}
    for name, weight in weights.items():
        if not weight:
            continue
        if name != "step":
            result[name] = scale / math.sqrt(weight)
        elif sampling_rate == 1.0:
            result[name] = scale * math.sqrt(steps / weight)
        else:
            mu_squared = weight / scale**2
            result[name] = math.log1p(mu_squared / (sampling_rate**2 * steps)) ** -0.5
    return result


def _mechanism(value: Mapping[str, Any] | None) -> Mechanism | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mechanism")
    # JSON does not tell 1 from 1.0; a ledger does.
    fields: dict[str, Any] = {
        k: float(v) if type(v) is int and k != "grid_bits" else v for k, v in value.items()
    }
    return Mechanism(**fields)
