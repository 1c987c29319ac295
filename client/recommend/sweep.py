"""One pass over a whole catalogue, shared by the queries that wait: who may be among the best."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from client.recommend.rounding import AT_ONCE, rough_vectors
from shared.encoder import Vectors
from shared.statistics import Floats, Ints

Mask = npt.NDArray[np.bool_]


@dataclass(eq=False)
class Sought:
    """What one query looks for. Private.

    Attributes:
        direction: ``[dim] float64``.
        prior: weight of log popularity.
        reach: ``[K] float64``, added at the places ``top``.
        roundings: what rounding to float32 may move a score, at most.
        count: how many items; at most those that may come out.
        excluded: places that may not.
        allowed: ``[items]``, which alone may; None for all.
        answer: filled by ``Sweep.candidates``.
    """

    direction: Floats
    prior: float
    reach: Floats
    roundings: float
    count: int
    excluded: Ints
    allowed: Mask | None
    answer: "Future[Ints]" = field(default_factory=Future)


class Sweep:
    """Rough scores of one catalogue, and which items their error leaves among the best.

    One pass runs at a time, since it keeps the memory's whole bandwidth busy. It works in memory
    that stays: fresh pages for every query would cost more than the arithmetic on them.

    Args:
        vectors: ``[items, dim] float32``.
        log_popularity: ``[items] float64``.
        top: ``[K] int64`` places that ``Sought.reach`` is about.
        longest: no row of ``vectors`` is longer.
    """

    def __init__(self, vectors: Vectors, log_popularity: Floats, top: Ints, longest: float) -> None:
        self._rough = rough_vectors(vectors, longest)
        self._prior = torch.from_numpy(log_popularity.astype(np.float32))
        self._top = top
        self._lower = torch.empty(len(vectors))
        self._upper = torch.empty(len(vectors))
        self._waiting: deque[Sought] = deque()
        self._turn = threading.Condition()
        self._busy = False
        self.size_bytes = self._rough.size_bytes + 12 * len(vectors)

    def candidates(self, sought: Sought) -> Ints:
        """Places of all items that may be among the best, in ascending order.

        Whoever comes while no pass runs makes the next, for all who wait by then.
        """
        with self._turn:
            self._waiting.append(sought)
            self._turn.wait_for(lambda: sought.answer.done() or not self._busy)
            if sought.answer.done():
                return sought.answer.result()
            self._busy = True
        try:
            # More may wait before this one than a pass can answer.
            while not sought.answer.done():
                ahead = min(AT_ONCE, len(self._waiting))
                self._answer([self._waiting.popleft() for _ in range(ahead)])
        finally:
            with self._turn:
                self._busy = False
                self._turn.notify_all()
        return sought.answer.result()

    def _answer(self, together: Sequence[Sought]) -> None:
        try:
            directions = np.stack([one.direction for one in together])
            bounds = self._rough.products(directions, self._lower)
            for one, (factor, constant) in zip(together, bounds, strict=True):
                one.answer.set_result(self._among_best(one, factor, constant))
        except Exception as error:
            # Raised again in the thread of everyone whom this pass leaves without an answer.
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(error)

    def _among_best(self, sought: Sought, factor: float, constant: float) -> Ints:
        """An item may be among them if its upper bound reaches the ``count``-th lower bound."""
        lower, slack = self._lower, self._rough.slack
        lower.add_(self._prior, alpha=sought.prior)
        lower.numpy()[self._top] += sought.reach
        lower.add_(slack, alpha=-factor)
        lower.numpy()[sought.excluded] = -np.inf
        if sought.allowed is not None:
            lower.masked_fill_(torch.from_numpy(~sought.allowed), -torch.inf)
        worst = float(torch.topk(lower, sought.count, sorted=False).values.min())
        upper = torch.add(lower, slack, alpha=2.0 * factor, out=self._upper)
        least = worst - 2.0 * (constant + sought.roundings)
        return np.asarray(torch.nonzero(upper >= least)[:, 0].numpy(), dtype=np.int64)
