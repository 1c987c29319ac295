"""Late fusion at scoring: log P, G, the adapter, item texts and a stated need, each with a weight.

The weights of adapter and texts are upper limits: a part whose likenesses the released pairs do not
bear out counts less, or nothing (``shared.evidence``).

Every part but G is linear in an item's vector, up to what all items share. So a user's score of the
whole catalogue is one product with one vector, and a part's mean and deviation over the catalogue,
by which it is standardised, follow from the catalogue's own mean and second moment. G is
standardised over the items that it covers and says nothing, 0, of others.
"""

import copy
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from shared.adapters import Arrays, load_arrays, peft_model
from shared.config import Config
from shared.devices import Runtime
from shared.encoder import Vectors, unit_rows
from shared.evidence import borne_out, pair_lift
from shared.histories import PrivateHistories
from shared.statistics import Floats, Statistics, decayed_context
from shared.user_model import UserModel, item_tensor, last_hidden, pad_windows

Scores = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ROWS_PER_PASS = 256
ITEMS_PER_BLOCK = 8192
PAIRS_PER_BLOCK = 1024
# A part whose values differ by less over the catalogue says nothing.
LEAST_DEVIATION = 1e-9

# One model holds one adapter at a time, and several threads may score.
_model_in_use = threading.Lock()


@dataclass(frozen=True)
class Blend:
    """The weight of every part of a score. Public."""

    popularity: float = 1.0
    cooccurrence: float = 0.0
    adapter: float = 0.0
    content: float = 0.0
    need: float = 0.0


@dataclass(frozen=True)
class Targets:
    """What users look for. Private. The score of item ``i`` for user ``u`` is
    ``prior[u] * log_popularity[i] + direction[u] . vectors[i] + reach[u, place of i in top] +
    offset[u]``.

    Attributes:
        prior: ``[users] float64``.
        reach: ``[users, K] float64``.
        directions: ``{part: [users, dim] float32}``.
        offsets: ``{part: [users] float64}``, by which standardising has moved a direction's part.
    """

    prior: Floats
    reach: Floats
    directions: Mapping[str, Scores]
    offsets: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.prior)

    def select(self, users: Ints) -> "Targets":
        """What some of them look for."""
        return Targets(
            self.prior[users],
            self.reach[users],
            {part: direction[users] for part, direction in self.directions.items()},
            {part: offset[users] for part, offset in self.offsets.items()},
        )

    @cached_property
    def direction(self) -> Scores:
        """``[users, dim] float32``, of all parts together."""
        return np.asarray(np.sum(list(self.directions.values()), axis=0), dtype=np.float32)

    @cached_property
    def offset(self) -> Floats:
        """``[users] float64``, of all parts together."""
        return np.asarray(np.sum(list(self.offsets.values()), axis=0), dtype=np.float64)


@dataclass(frozen=True)
class ItemSide:
    """What scores are made of on the side of the items. Public.

    Attributes:
        vectors: ``[items, dim] float32``.
        log_popularity: ``[items] float64``.
        top: ``[K] int64`` places that ``Targets.reach`` is about.
    """

    vectors: Vectors
    log_popularity: Floats
    top: Ints

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def _column(self) -> Ints:
        column = np.full(len(self), -1, dtype=np.int64)
        column[self.top] = np.arange(len(self.top))
        return column

    def scores_of(self, targets: Targets, users: Ints, places: Ints) -> Scores:
        """Scores in float64 until they are done, ``[pairs] float32``.

        Args:
            targets: what users look for.
            users, places: ``[pairs]`` rows of ``targets``, and items.
        """
        found = targets.prior[users] * self.log_popularity[places] + targets.offset[users]
        column = self._column[places]
        covered = column >= 0
        found[covered] += targets.reach[users[covered], column[covered]]
        if targets.direction.any():
            for start in range(0, len(users), PAIRS_PER_BLOCK):
                part = slice(start, start + PAIRS_PER_BLOCK)
                directions = targets.direction[users[part]].astype(np.float64)
                found[part] += np.einsum("pd,pd->p", directions, self.vectors[places[part]])
        return np.asarray(found, dtype=np.float32)


@dataclass(frozen=True)
class Scorer:
    """Scores of one catalogue for users whose histories stay where they are.

    Attributes:
        config: weights, window, decay.
        statistics: delivered by the federation.
        vectors: ``[items, dim]`` item vectors.
        adapter: delivered arrays, or None for the statistics alone.
        model: holds the adapter while scoring; None where there is none.
        runtime: device and precision.
        reliability: share of signal in the adapter, in [0, 1]. It shrinks the adapter towards a
            warm start, which ranks well by itself.
        merged: whether the adapter is part of the model's weights.
        weights: of the parts; None: by the configuration and what the statistics bear out.
    """

    config: Config
    statistics: Statistics
    vectors: Vectors
    adapter: Arrays | None = None
    model: UserModel | None = None
    runtime: Runtime | None = None
    reliability: float = 1.0
    merged: bool = False
    weights: Blend | None = None

    @property
    def item_side(self) -> ItemSide:
        """What its scores are made of on the side of the items."""
        return ItemSide(self.vectors, self.statistics.log_popularity, self.statistics.top)

    def with_merged_adapter(self) -> "Scorer":
        """The same scores from a model of its own that has the adapter in its weights.

        It takes a third less time for one history, and needs no lock. Weights of eight bits
        would round the adapter away: such a model stays as it is.
        """
        if self.adapter is None or self.model is None:
            return self
        if self.runtime is not None and self.runtime.weights == "int8":
            return self
        with _model_in_use:
            load_arrays(self.model, self._shrunk())
            # What a client keeps beside the model to train it stays with the original.
            own = copy.deepcopy(self.model, {id(self.model.companion): None})
        own.backbone = peft_model(own).merge_and_unload()
        return replace(self, model=own.eval(), merged=True, weights=self.blend())

    def blend(self) -> Blend:
        """The weights of the hybrid score: as configured, or what evidence leaves of them."""
        if self.weights is not None:
            return self.weights
        fusion = self.config.fusion
        adapter, content = 0.0, 0.0
        if self.adapter is not None and fusion.adapter_weight:
            adapter = borne_out(fusion.adapter_weight, self.lift_of_adapter, fusion.weight_per_lift)
        if fusion.content_weight:
            content = borne_out(fusion.content_weight, self.lift_of_texts, fusion.weight_per_lift)
        return Blend(1.0, self.config.statistics.weight, adapter, content, fusion.need_weight)

    @cached_property
    def lift_of_texts(self) -> float:
        """By what share pairs of G are more frequent for a deviation more likeness of texts."""
        vectors = self.vectors[self.statistics.top]
        return self._lift(vectors, vectors)

    @cached_property
    def lift_of_adapter(self) -> float:
        """The same for what the user model says after one item alone."""
        top = self.statistics.top
        states = unit_rows(self._read(len(top), lambda place: top[place : place + 1]))
        return self._lift(states, self.vectors[top])

    def _lift(self, left: Vectors, right: Vectors) -> float:
        likeness = np.asarray(left @ right.T, dtype=np.float32)
        return pair_lift(self.statistics, self.config.statistics, likeness)

    def fused(
        self,
        histories: PrivateHistories,
        users: Ints,
        need: Vectors | None = None,
        blend: Blend | None = None,
    ) -> Scores:
        """Scores of all items, ``[users, items] float32``; greater is better.

        Args:
            histories: of the organisation. Private; nothing of it is kept.
            users: places of the users to score.
            need: ``[dim]`` vector of a stated need, in the space of ``vectors``; or
                ``[users, dim]``, each user's own.
            blend: weights; None takes those configured.
        """
        found = self.targets(histories, users, need, blend)
        scores = found.prior[:, None] * self.statistics.log_popularity + found.offset[:, None]
        scores += found.direction @ self.vectors.T
        scores[:, self.statistics.top] += found.reach
        return scores.astype(np.float32)

    def targets(
        self,
        histories: PrivateHistories,
        users: Ints,
        need: Vectors | None = None,
        blend: Blend | None = None,
        states: Scores | None = None,
    ) -> Targets:
        """What users look for; arguments as of ``fused``.

        Args:
            histories, users, need, blend: as of ``fused``.
            states: of the users, by ``states``, where they are known already.
        """
        weights = blend or self.blend()
        reach = self._reach(histories, users, weights.cooccurrence)
        directions: dict[str, Scores] = {}
        offsets: dict[str, Floats] = {}
        raw: dict[str, tuple[Scores, float]] = {}
        if weights.adapter:
            known = self.states(histories, users) if states is None else states
            raw["adapter"] = known, weights.adapter
        if weights.content:
            decay = self.config.fusion.content_decay
            profile = text_profiles(self.vectors, histories, users, decay)
            raw["content"] = profile, weights.content
        if need is not None and weights.need:
            shape = len(users), self.vectors.shape[1]
            raw["need"] = np.broadcast_to(need.astype(np.float32), shape), weights.need
        for part, (direction, weight) in raw.items():
            directions[part], offsets[part] = self._standardised(direction, weight)
        if not directions:
            directions["content"] = np.zeros((len(users), self.vectors.shape[1]), np.float32)
            offsets["content"] = np.zeros(len(users))
        return Targets(np.full(len(users), weights.popularity), reach, directions, offsets)

    def parts(self, targets: Targets, places: Ints) -> dict[str, Floats]:
        """What each part adds to the scores of some items, ``{part: [users, places] float64}``.

        Only parts that count are there; they add up to the score.
        """
        statistics = self.statistics
        found = {"popularity": targets.prior[:, None] * statistics.log_popularity[places]}
        covered = {int(place): column for column, place in enumerate(statistics.top)}
        columns = np.array([covered.get(int(place), -1) for place in places], dtype=np.int64)
        reach = targets.reach[:, columns] if len(covered) else 0.0
        found["cooccurrence"] = np.where(columns >= 0, reach, np.zeros((len(targets), 1)))
        for part, direction in targets.directions.items():
            own = (direction @ self.vectors[places].T).astype(np.float64)
            found[part] = own + targets.offsets.get(part, np.zeros(len(targets)))[:, None]
        return found

    def adapter_alone(self, histories: PrivateHistories, users: Ints) -> Targets:
        """By the user model as it was trained: cosine over temperature, plus log P."""
        reach = np.zeros((len(users), len(self.statistics.top)))
        directions = {"adapter": self.states(histories, users)}
        return Targets(np.ones(len(users)), reach, directions, {"adapter": np.zeros(len(users))})

    def hidden(self, histories: PrivateHistories, users: Ints) -> Scores:
        """The user model's state after each history, ``[users, dim] float32``; 0 without one."""
        result = np.zeros((len(users), self.vectors.shape[1]), dtype=np.float32)
        known = np.flatnonzero(histories.lengths[users] > 0)
        result[known] = self._read(len(known), lambda row: histories.row(int(users[known[row]])))
        return result

    def _read(self, rows: int, row: Callable[[int], Ints]) -> Scores:
        """The user model's state after the last item of each row, ``[rows, dim] float32``."""
        model, runtime = self.model, self.runtime
        assert model is not None
        assert runtime is not None
        result = np.zeros((rows, self.vectors.shape[1]), dtype=np.float32)
        with nullcontext() if self.merged else _model_in_use:
            if not self.merged:
                load_arrays(model, self._shrunk())
            for start in range(0, rows, ROWS_PER_PASS):
                stop = min(rows, start + ROWS_PER_PASS)
                windows = [row(place) for place in range(start, stop)]
                result[start:stop] = self._pass(model, runtime, windows)
        return result

    def _shrunk(self) -> Arrays:
        """The adapter, nearer to its start where the start ranks by itself."""
        assert self.adapter is not None
        shrink = self.reliability if self.config.model.warm_start else 1.0
        return {
            name: value * np.float32(shrink if ".lora_B." in name else 1.0)
            for name, value in self.adapter.items()
        }

    def _pass(self, model: UserModel, runtime: Runtime, rows: list[Ints]) -> Scores:
        windows, lengths = pad_windows(rows, self.config.model.window)
        # Only the vectors that are read: a catalogue may have a million.
        items, places = np.unique(windows, return_inverse=True)
        inputs = torch.from_numpy(places.reshape(windows.shape)).to(runtime.device)
        with torch.inference_mode(), runtime.autocast():
            found = last_hidden(
                model,
                inputs,
                torch.from_numpy(lengths).to(runtime.device),
                item_tensor(self.vectors[items], runtime.device, runtime.precision),
            )
        return found.float().cpu().numpy()

    def states(self, histories: PrivateHistories, users: Ints) -> Scores:
        """Directions whose products with item vectors are the user model's scores."""
        directions = unit_rows(self.hidden(histories, users))
        return np.asarray(directions / self.config.model.temperature, dtype=np.float32)

    def _reach(self, histories: PrivateHistories, users: Ints, weight: float) -> Floats:
        """The decayed history times G, standardised over the items that G covers.

        Over the whole catalogue it would lift all covered items together, the more the fewer they
        are, which popularity has done already (measured on validation items: NDCG@10 0.087 against
        0.094 on MovieLens-100K and 0.033 against 0.043 on latest-small, epsilon 8, own noise).
        """
        top = self.statistics.top
        if not weight or not len(top):
            return np.zeros((len(users), len(top)))
        decay = self.config.statistics.history_decay
        reach = decayed_context(histories, users, top, decay) @ self.statistics.transition
        # Of the differences: their squares lose nothing to the mean's.
        reach -= reach.mean(axis=1, keepdims=True)
        scale = _weight_over_deviation(weight, np.sqrt((reach**2).mean(axis=1)))
        return np.asarray(reach * scale[:, None])

    def _standardised(self, direction: Scores, weight: float) -> tuple[Scores, Floats]:
        mean_vector, covariance = catalogue_moments(self.vectors)
        wide = direction.astype(np.float64)
        mean = wide @ mean_vector
        variance = np.einsum("ud,ud->u", wide @ covariance, wide)
        scale = _weight_over_deviation(weight, np.sqrt(np.maximum(variance, 0.0)))
        return (wide * scale[:, None]).astype(np.float32), -mean * scale


def catalogue_moments(vectors: Vectors) -> tuple[Floats, Floats]:
    """Mean ``[dim]`` and covariance ``[dim, dim]`` of item vectors over the catalogue, float64.

    Those of the last catalogue are kept: scorers of one catalogue come and go.
    """
    kept = _last_moments[0] if _last_moments else None
    if kept is None or kept[0] is not vectors:
        items, dim = vectors.shape
        mean = vectors.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((dim, dim))
        for start in range(0, items, ITEMS_PER_BLOCK):
            block = vectors[start : start + ITEMS_PER_BLOCK].astype(np.float64) - mean
            covariance += block.T @ block
        kept = vectors, mean, covariance / items
        _last_moments[:] = [kept]
    return kept[1], kept[2]


_last_moments: list[tuple[Vectors, Floats, Floats]] = []


def text_profiles(
    vectors: Vectors, histories: PrivateHistories, users: Ints, decay: float
) -> Scores:
    """Text alone: the mean of a history's item vectors, decayed a step back, ``[users, dim]``."""
    result = np.zeros((len(users), vectors.shape[1]), dtype=np.float32)
    for row, user in enumerate(users):
        newest_first = histories.row(int(user))[::-1]
        result[row] = (decay ** np.arange(len(newest_first))) @ vectors[newest_first]
    return result


def zero_shot_scores(
    vectors: Vectors, histories: PrivateHistories, users: Ints, decay: float
) -> Scores:
    """Text alone, no training: product of the text profile with all item vectors."""
    return np.asarray(text_profiles(vectors, histories, users, decay) @ vectors.T)


def top_items(
    scores: Scores, seen: Ints, k: int, exclude_seen: bool = True
) -> list[tuple[int, float]]:
    """The ``k`` best places of one row of scores with their scores, best first; ties by place."""
    masked = scores.astype(np.float64)
    if exclude_seen:
        masked[seen] = -np.inf
    order = np.argsort(-masked, kind="stable")[:k]
    return [(int(i), float(masked[i])) for i in order if np.isfinite(masked[i])]


def _weight_over_deviation(weight: float, deviation: Floats) -> Floats:
    result = np.zeros_like(deviation)
    np.divide(weight, deviation, out=result, where=deviation > LEAST_DEVIATION)
    return result
