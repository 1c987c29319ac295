"""Late fusion at scoring: log P, G, the adapter and a stated need, each with a public weight."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from shared.adapters import Arrays, load_arrays
from shared.config import Config
from shared.devices import Runtime
from shared.encoder import Vectors
from shared.histories import PrivateHistories
from shared.statistics import Statistics, decayed_context, standardised, statistics_scores
from shared.user_model import UserModel, item_tensor, last_hidden, pad_windows

Scores = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ROWS_PER_PASS = 256


@dataclass(frozen=True)
class Scorer:
    """Scores of one catalogue for users whose histories stay where they are.

    Attributes:
        config: weights, window, decay.
        statistics: delivered by the federation.
        vectors: ``[items, dim]`` centred item vectors.
        adapter: delivered arrays, or None for the statistics alone.
        reliability: share of signal in the adapter, in [0, 1]. It scales the adapter's weight; with
            a warm start, which ranks by itself, it shrinks the adapter towards it instead.
        model: holds the adapter while scoring; None where there is none.
        runtime: device and precision.
    """

    config: Config
    statistics: Statistics
    vectors: Vectors
    adapter: Arrays | None = None
    model: UserModel | None = None
    runtime: Runtime | None = None
    reliability: float = 1.0

    def fused(
        self, histories: PrivateHistories, users: Ints, need: Vectors | None = None
    ) -> Scores:
        """Scores of all items, ``[users, items] float32``; greater is better.

        Args:
            histories: of the organisation. Private; nothing of it is kept.
            users: places of the users to score.
            need: ``[dim]`` vector of a stated need, in the space of ``vectors``.
        """
        scores = statistics_scores(self.statistics, histories, users, self.config.statistics)
        weight = self.config.fusion.adapter_weight
        if not self.config.model.warm_start:
            weight *= self.reliability
        if self.adapter is not None and weight:
            own = standardised(self.adapter_scores(histories, users).astype(np.float64))
            scores = scores + weight * own
        if need is not None:
            match = standardised((self.vectors @ need).astype(np.float64)[None, :])
            scores = scores + self.config.fusion.need_weight * match
        return scores.astype(np.float32)

    def adapter_alone(self, histories: PrivateHistories, users: Ints) -> Scores:
        """The user model as it was trained: cosine over temperature, plus log P."""
        prior = self.statistics.log_popularity.astype(np.float32)
        return self.adapter_scores(histories, users) + prior

    def adapter_scores(self, histories: PrivateHistories, users: Ints) -> Scores:
        """Cosine over temperature of the user model alone, ``[users, items] float32``.

        A user without history has 0 for every item.
        """
        model, runtime = self.model, self.runtime
        assert model is not None
        assert runtime is not None
        assert self.adapter is not None
        shrink = self.reliability if self.config.model.warm_start else 1.0
        load_arrays(
            model,
            {
                name: value * np.float32(shrink if ".lora_B." in name else 1.0)
                for name, value in self.adapter.items()
            },
        )
        items = item_tensor(self.vectors, runtime.device, runtime.precision)
        result = np.zeros((len(users), len(self.vectors)), dtype=np.float32)
        known = np.flatnonzero(histories.lengths[users] > 0)
        for start in range(0, len(known), ROWS_PER_PASS):
            part = known[start : start + ROWS_PER_PASS]
            rows = [histories.row(int(u)) for u in users[part]]
            windows, lengths = pad_windows(rows, self.config.model.window)
            with torch.inference_mode(), runtime.autocast():
                hidden = last_hidden(
                    model,
                    torch.from_numpy(windows).to(runtime.device),
                    torch.from_numpy(lengths).to(runtime.device),
                    items,
                )
                result[part] = model.scores(hidden, items).cpu().numpy()
        return result


def zero_shot_scores(
    vectors: Vectors, histories: PrivateHistories, users: Ints, decay: float
) -> Scores:
    """Text alone, no training: cosine with the decayed mean of a history's item vectors."""
    everything = np.arange(len(vectors), dtype=np.int64)
    context = decayed_context(histories, users, everything, decay)
    return (context @ vectors @ vectors.T).astype(np.float32)


def top_items(
    scores: Scores, seen: Ints, k: int, exclude_seen: bool = True
) -> list[tuple[int, float]]:
    """The ``k`` best places of one row of scores with their scores, best first; ties by place."""
    masked = scores.astype(np.float64)
    if exclude_seen:
        masked[seen] = -np.inf
    order = np.argsort(-masked, kind="stable")[:k]
    return [(int(i), float(masked[i])) for i in order if np.isfinite(masked[i])]
