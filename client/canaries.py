"""Canaries: pretend users that ride on a release, so that its real noise and clipping are measured.

Every canary has one coordinate of the released vector to itself, where it pushes with a row far
longer than the clipping norm. Members enter like users, by the same draw, and pass through the same
clipping, sum and noise; reserves never enter. What an adversary who knows everybody but the canary
would see at that coordinate is recorded (white-box auditing, Nasr et al. 2023, arXiv 2302.07956;
many canaries in one run, Steinke et al. 2023, arXiv 2305.08846).

The members' known parts are then taken off the noised sum, and the claim stands. Hold all that the
canaries draw fixed: which coordinates, which signs, who of them enters. Two sets of users that
differ in one user differ in that user alone after the same canaries joined both, so the mechanism's
guarantee holds for the noised sum with canaries; subtracting a fixed vector from it is
post-processing. This needs draws that depend neither on the users nor on the noise: coordinates and
signs are hashed from the run's public name, and members are sampled each by a number of its own.
What is subtracted is what a canary may add, never what it was seen to add.

In a secure sum all this happens before the vector is masked: the organisation knows its own noised
sum, which leaves rounded to the grid again and masked, both of which is post-processing.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.canaries import CanaryRecord
from shared.histories import PrivateHistories
from shared.plan import Mechanism, PrivacyPlan
from shared.randomness import PrivateRandom
from shared.statistics import UNIT

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

# A canary's gradient before clipping, in clipping norms: unclipped it shows at once.
UNCLIPPED = 128.0
# Of gradient rows together in a micro-batch: bounds memory and, being more than one row, shows
# clipping of a batch instead of its rows.
MICRO_BATCH_VALUES = 2**20
MICRO_BATCH_ROWS = (2, 64)
# How often a canary repeats its items: a statistic that counts instead of normalising shows.
REPEATS = 3


class Canaries:
    """The canaries of one release, and what they saw.

    Use one of ``on_items``, ``on_pairs`` and ``on_adapter``; each gives at most as many canaries as
    there are coordinates, and None where ``count`` is 0.

    Args:
        count: of canaries, about half of them members.
        run: public name of the run; the same coordinates in all its rounds and organisations.
        round_number: of the release.
        keys: ``[coordinates] uint64`` public name of each coordinate of the released vector.
        signed: whether a canary can push both ways.

    Attributes:
        members: how many are in the data.
        places: ``[canaries] int64`` coordinates; members first.
    """

    def __init__(
        self, count: int, run: str, round_number: int, keys: Keys, *, signed: bool
    ) -> None:
        self.run, self.round = run, round_number
        order = _mixed(keys ^ np.uint64(_number(f"{run}/places")))
        chosen = [np.flatnonzero(order & np.uint64(1) == role) for role in (0, 1)]
        # Halves of equal right: organisations with other catalogues share what they share.
        member, reserve = (places[np.argsort(order[places])][: count // 2] for places in chosen)
        self.members = len(member)
        self.places: Ints = np.concatenate([member, reserve])
        self._keys = keys[self.places]
        self._histories = PrivateHistories((), np.zeros(1, np.int64), *_EMPTY)
        self._random = np.random.default_rng(_number(f"{run}/{round_number}/signs"))
        self._signed = signed
        self._people = 0
        self._signs: list[npt.NDArray[np.int8]] = []
        self._sampled: list[npt.NDArray[np.bool_]] = []
        self._batch_sizes: list[int] = []
        self._residuals: list[npt.NDArray[np.float32]] = []
        self._real = np.zeros(len(self.places))
        self._bound, self._added, self._divisor, self._rows_of_one = 1.0, UNIT, 1.0, 1

    @classmethod
    def on_items(
        cls, count: int, run: str, round_number: int, keys: Keys, items: Ints | None = None
    ) -> Self | None:
        """Canaries of P, each with one item, whose whole row is that item's coordinate.

        Args:
            count, run, round_number: as of the class.
            keys: ``[coordinates] uint64``.
            items: ``[coordinates] int64`` place in the catalogue of an item of each; None: its own.
        """
        if not count:
            return None
        canaries = cls(count, run, round_number, keys, signed=False)
        places = canaries.places[: canaries.members]
        own = places if items is None else items[places]
        canaries._histories = _pretended(np.repeat(own[:, None], REPEATS, axis=1))
        return canaries

    @classmethod
    def on_pairs(
        cls, count: int, run: str, round_number: int, keys: Keys, top: Ints
    ) -> Self | None:
        """Canaries of G, each with one pair of top items, whose whole row is that pair's cell.

        Args:
            count, run, round_number: as of the class.
            keys: ``[K] uint64`` of the top items.
            top: ``[K] int64`` places of the top items in the catalogue.
        """
        first, second = np.triu_indices(len(top), 1)
        if not count or not len(first):
            return None
        low, high = np.minimum(keys[first], keys[second]), np.maximum(keys[first], keys[second])
        canaries = cls(count, run, round_number, _mixed(low) ^ high, signed=False)
        cells = canaries.places[: canaries.members]
        pairs = np.stack([top[first[cells]], top[second[cells]]], axis=1)
        canaries._histories = _pretended(np.tile(pairs, (1, REPEATS)))
        return canaries

    @classmethod
    def on_adapter(
        cls, count: int, run: str, round_number: int, parameters: Sequence[nn.Parameter]
    ) -> Self | None:
        """Canaries of steps, each with one trained value.

        Args:
            count, run, round_number: as of the class.
            parameters: that are trained, in the order in which the optimiser has them.
        """
        if not count:
            return None
        size = sum(p.numel() for p in parameters)
        return cls(count, run, round_number, np.arange(size, dtype=np.uint64), signed=True)

    def join(self, histories: PrivateHistories) -> PrivateHistories:
        """The users' histories and after them the members'."""
        own = self._histories
        if histories.ratings is not None:
            own = replace(own, ratings=np.zeros(len(own.items), dtype=np.float32))
        return histories.followed_by(own)

    def begin(self, bound: float, below: float, divisor: float, rows_of_one: int) -> None:
        """Take note of what the steps that follow should do.

        Args:
            bound: clipping norm.
            below: part of it that clipping leaves of a longer row.
            divisor: public expected batch size; a gradient divided by another shows.
            rows_of_one: rows that the trainer makes of one user; more than 1 is a fault and shows.
        """
        self._bound, self._added = bound, bound * below
        self._divisor, self._rows_of_one = divisor, rows_of_one

    def gradient_rows(
        self, parameters: Sequence[nn.Parameter], entered: Ints, users: int
    ) -> Iterator[None]:
        """Set ``grad_sample`` to rows of the members that entered, micro-batch by micro-batch.

        Args:
            parameters: as of ``on_adapter``; their ``summed_grad`` holds the users' sum.
            entered: places of the people who enter this step; members come after the users.
            users: how many there are.
        """
        self._enter(entered, users)
        self._real = self._at([getattr(p, "summed_grad", None) for p in parameters])
        members = np.repeat(np.flatnonzero(self._sampled[-1]), self._rows_of_one)
        bounds = np.cumsum([0, *(p.numel() for p in parameters)])
        group = int(np.clip(MICRO_BATCH_VALUES // bounds[-1], *MICRO_BATCH_ROWS))
        for start in range(0, len(members), group):
            canaries = members[start : start + group]
            places, signs = self.places[canaries], self._signs[-1][canaries]
            for parameter, first, last in zip(parameters, bounds[:-1], bounds[1:], strict=True):
                rows = np.zeros((len(canaries), last - first), dtype=np.float32)
                inside = np.flatnonzero((places >= first) & (places < last))
                rows[inside, places[inside] - first] = UNCLIPPED * self._bound * signs[inside]
                sample = torch.from_numpy(rows).to(parameter.device).reshape(-1, *parameter.shape)
                parameter.grad_sample = sample  # type: ignore[attr-defined]
            yield

    def take_out(self, noised: Sequence[Tensor]) -> None:
        """Subtract from the noised sums, in place, what the members that entered may have added."""
        known = self._known()
        bounds = np.cumsum([0, *(part.numel() for part in noised)])
        for part, first, last in zip(noised, bounds[:-1], bounds[1:], strict=True):
            inside = np.flatnonzero((self.places >= first) & (self.places < last))
            places = torch.from_numpy(self.places[inside] - first).to(part.device)
            part.view(-1)[places] -= torch.from_numpy(known[inside]).to(part.device)

    def read(self, released: Sequence[Tensor | None]) -> None:
        """Record a step from the gradients that are applied, after ``take_out`` and division."""
        seen = self._at(released) * self._divisor + self._known() - self._real
        self._residuals.append((seen / self._bound).astype(np.float32))

    def settle(
        self, noised: Floats, real: Floats, entered: Ints, users: int, bound: float
    ) -> Floats:
        """Record a noised statistic, and return it without the members' parts.

        Args:
            noised: ``[coordinates]`` sum over all who entered, with noise.
            real: ``[coordinates]`` sum over the users that entered.
            entered, users: as of ``gradient_rows``.
            bound: sensitivity.
        """
        self._enter(entered, users)
        self._residuals.append(((noised - real)[self.places] / bound).astype(np.float32))
        result = noised.copy()
        result[self.places] -= self._known()
        return result

    def record(self, mechanism: Mechanism, plan: PrivacyPlan, attempt: int = 0) -> CanaryRecord:
        """What to keep of this release: local, never sent."""
        return CanaryRecord(
            kind=mechanism.name,
            run=self.run,
            round=self.round,
            attempt=attempt,
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            sensitivity=mechanism.sensitivity,
            noise_share=mechanism.noise_share,
            grid_bits=mechanism.grid_bits,
            noise=plan.noise.value,
            least_participants=plan.least_participants,
            delta=plan.delta,
            people=self._people,
            keys=self._keys,
            residuals=np.stack(self._residuals),
            signs=np.stack(self._signs),
            sampled=np.stack(self._sampled),
            batch_sizes=np.array(self._batch_sizes, dtype=np.int64),
        )

    def _enter(self, entered: Ints, users: int) -> None:
        self._people = users + self.members
        sampled = np.zeros(self.members, dtype=bool)
        sampled[entered[entered >= users] - users] = True
        signs = np.ones(len(self.places), dtype=np.int8)
        if self._signed:
            signs = self._random.choice(np.array([-1, 1], dtype=np.int8), len(self.places))
        self._sampled.append(sampled)
        self._signs.append(signs)
        self._batch_sizes.append(len(entered))

    def _known(self) -> Floats:
        known = np.zeros(len(self.places))
        known[: self.members] = self._added * self._signs[-1][: self.members] * self._sampled[-1]
        return known

    def _at(self, parts: Sequence[Tensor | None]) -> Floats:
        """Values at the canaries' places of a vector in parts; zeros where there is none yet."""
        if any(part is None for part in parts):
            return np.zeros(len(self.places))
        flat = torch.cat([part.detach().reshape(-1).double() for part in parts if part is not None])
        return flat[torch.from_numpy(self.places).to(flat.device)].cpu().numpy()


def noised_sum(
    histories: PrivateHistories,
    total: Callable[[PrivateHistories], Floats],
    mechanism: Mechanism,
    random: PrivateRandom,
    canaries: Canaries | None = None,
) -> Floats:
    """Sample the users, sum their rows and add noise; canaries, where there are any, ride along.

    Args:
        histories: of all users. Private.
        total: sum of the rows of histories; the sum over users that enter is taken apart from the
            one with canaries, so that whatever a canary adds is seen.
        mechanism: sampling and noise.
        random: noise and sampling.
        canaries: of this release; see what comes out without their parts.
    """
    people = histories if canaries is None else canaries.join(histories)
    entered = mechanism.sample(len(people), random)
    noised = mechanism.noised(total(_chosen(people, entered)), random)
    if canaries is None:
        return noised
    real = total(_chosen(histories, entered[entered < len(histories)]))
    return canaries.settle(noised, real, entered, len(histories), mechanism.sensitivity)


def _chosen(histories: PrivateHistories, users: Ints) -> PrivateHistories:
    return histories if len(users) == len(histories) else histories.select(users)


def _pretended(rows: Ints) -> PrivateHistories:
    """Histories of equal length from ``[members, length]`` items."""
    members, length = rows.shape
    return PrivateHistories(
        ("",) * members,
        np.arange(members + 1, dtype=np.int64) * length,
        rows.reshape(-1).astype(np.int64),
        np.zeros(rows.size),
    )


_EMPTY = (np.zeros(0, dtype=np.int64), np.zeros(0))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mixed(keys: Keys) -> Keys:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014): 64 well-mixed bits of each key."""
    z = keys + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
