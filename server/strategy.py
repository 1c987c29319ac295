"""The federation's strategy: which messages a round sends, and what is made of the replies."""

import dataclasses
import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.aggregation import (
    IterateAverage,
    Popularity,
    ServerOptimizer,
    Signal,
    arrays_of,
    check_cooccurrence,
    check_popularity,
    check_update,
    covered_items,
    no_statistics,
    noise_deviation,
    squared_norm,
    statistics_arrays,
    sum_cooccurrence,
    sum_popularity,
    weighted_mean,
)
from server.evaluation import check_evaluation, evaluation_of, private_evaluation
from server.inquiry import Inquiry
from server.observers import PrivateEvaluation
from server.secure import SecureSums
from shared import messages
from shared.adapters import Arrays
from shared.config import Config
from shared.errors import FederationError
from shared.messages import Reply
from shared.plan import PrivacyPlan
from shared.stages import stage
from shared.statistics import triangle_size
from shared.wire import are_halved, halved, pack_arrays, unpack_arrays, widened

LOGGER = logging.getLogger(__name__)

# Rounds in a row without a sum: whoever is away does not come back by asking on.
MOST_LOST = 3


class FederationStrategy(Strategy):
    """Statistics first, then weighted means of adapter updates through the server's optimiser.

    Args:
        config: of the run.
        inquiry: sends its requests and checks its replies.
        plan: what every organisation is asked to release.
        optimizer: of the server.
        average: of iterates.
        signal: estimates how reliable the adapter is.
        folder: keeps secure sums for a resumed run.
    """

    def __init__(
        self,
        config: Config,
        inquiry: Inquiry,
        plan: PrivacyPlan,
        optimizer: ServerOptimizer,
        average: IterateAverage,
        signal: Signal,
        folder: Path | None = None,
    ) -> None:
        self.config = config
        self.inquiry = inquiry
        self.plan = plan
        self.optimizer = optimizer
        self.average = average
        self.signal = signal
        self.sums = SecureSums(inquiry, plan, folder)
        self._adapter: Arrays = {}
        self._lost = 0

    def statistics(self, grid: Grid) -> dict[str, npt.NDArray[np.generic]]:
        """Ask for P, then for G over the top of noisy P, as far as the plan has them."""
        if self.plan.popularity is None:
            return no_statistics()
        if self.plan.secure:
            return self._secure_statistics(grid)
        mechanism = self.plan.popularity
        replies = self.inquiry.ask(
            grid, messages.POPULARITY, {}, lambda reply: check_popularity(reply, mechanism)
        )
        with stage("aggregate"):
            popularity = sum_popularity(replies, mechanism)
        top = np.empty(0, dtype=np.int64)
        triangle, pair_deviation = np.empty(0), 0.0
        pairs = self.plan.cooccurrence
        if pairs is not None:
            top = covered_items(popularity, self.config.statistics)
            replies = self.inquiry.ask(
                grid,
                messages.COOCCURRENCE,
                {"keys": popularity.keys[top]},
                lambda reply: check_cooccurrence(reply, pairs, popularity, top),
            )
            with stage("aggregate"):
                triangle = sum_cooccurrence(replies, popularity, top)
                pair_deviation = pairs.deviation * math.sqrt(len(replies))
        with stage("aggregate"):
            return statistics_arrays(
                popularity, top, triangle, pair_deviation, self.config.statistics
            )

    def evaluation(self, grid: Grid) -> PrivateEvaluation:
        """Ask for the noised sums of hits, gains and users, and divide them."""
        mechanism = self.plan.mechanism("evaluation")
        if self.plan.secure:
            rounds = self.config.training.rounds
            total = self.sums.total(grid, "evaluation", {}, rounds + 1, 3)
            return evaluation_of(total.values, total.deviation)
        replies = self.inquiry.ask(
            grid,
            messages.EVALUATE,
            {},
            lambda reply: check_evaluation(reply, mechanism),
            self.config.training.rounds + 1,
        )
        return private_evaluation(replies, mechanism)

    def train_round(
        self, grid: Grid, server_round: int, adapter: Arrays
    ) -> tuple[Arrays, int, float]:
        """One adapter round.

        Returns:
            The next adapter, how many organisations are in it, and the norm of the mean update.

        Raises:
            FederationError: if too few replies can be used; of secure sums only if several rounds
                in a row were lost.
        """
        if not self.plan.secure:
            packed = pack_arrays(adapter)
            outgoing = self.configure_train(server_round, packed, ConfigRecord(), grid)
            replies = self.inquiry.exchange(grid, outgoing)
            record, metrics = self.aggregate_train(server_round, replies)
            assert record is not None
            assert metrics is not None
            count, norm = (float(str(metrics[name])) for name in ("replies", "update_norm"))
            return unpack_arrays(record), int(count), norm
        self._adapter = adapter
        size = sum(value.size for value in adapter.values())
        sent = halved(adapter) if self._half else adapter
        try:
            # Not repeated once masked vectors have left: the next round costs as much and is new.
            total = self.sums.total(grid, "step", sent, server_round, size, repeat=False)
        except FederationError:
            self._lost += 1
            if self._lost >= MOST_LOST:
                raise
            LOGGER.warning("round %d is lost; the adapter stays as it is", server_round)
            return adapter, 0, 0.0
        self._lost = 0
        with stage("aggregate"):
            mechanism, training = self.plan.mechanism("step"), self.config.training
            scale = training.step_size / (mechanism.sampling_rate * total.declared_users)
            update = arrays_of(-scale * total.values, adapter)
            norm = self._step(server_round, update, scale * total.deviation)
        return self._adapter, len(total.names), norm

    def _step(self, server_round: int, update: Arrays, deviation: float) -> float:
        """Take a mean update in; returns its norm."""
        self._adapter = self.optimizer.step(self._adapter, update)
        self.average.add(server_round, self._adapter)
        self.signal.add(update, deviation)
        return math.sqrt(squared_norm(update))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One train message for every node."""
        self._adapter = unpack_arrays(arrays)
        # The server's own stays whole, so that rounding does not add up over rounds.
        sent = halved(self._adapter) if self._half else self._adapter
        return self.inquiry.messages(grid, messages.TRAIN, server_round, sent)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the updates by declared sizes and step the adapter.

        Raises:
            FederationError: if fewer than ``server.min_replies`` can be used.
        """
        usable = self.inquiry.usable(server_round, replies, self._check_update)
        with stage("aggregate"):
            weights = [float(reply.declared_users) for reply in usable]
            update = weighted_mean([reply.arrays for reply in usable], weights)
            training, mechanism = self.config.training, self.plan.mechanism("step")
            steps, size = training.steps_per_round, training.step_size
            norm = self._step(server_round, update, noise_deviation(usable, mechanism, steps, size))
        metrics = MetricRecord({"replies": len(usable), "update_norm": norm})
        return pack_arrays(self._adapter), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """No messages between rounds: an evaluation costs budget, and one at the end is planned."""
        return ()

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing was asked for."""
        return None

    def summary(self) -> None:
        """Log what every organisation is asked to release."""
        LOGGER.info("plan %s: %s", self.plan.sha256[:12], self.plan.to_json())

    def _secure_statistics(self, grid: Grid) -> dict[str, npt.NDArray[np.generic]]:
        """P and G from secure sums."""
        found = self.sums.total(grid, "popularity", {}, 0)
        popularity = Popularity(found.keys, found.values, np.full(len(found.keys), found.deviation))
        top, triangle, pair_deviation = np.empty(0, dtype=np.int64), np.empty(0), 0.0
        if self.plan.cooccurrence is not None:
            top = covered_items(popularity, self.config.statistics)
            asked = {"keys": popularity.keys[top]}
            summed = self.sums.total(grid, "cooccurrence", asked, 0, triangle_size(len(top)))
            triangle, pair_deviation = summed.values, summed.deviation
        with stage("aggregate"):
            return statistics_arrays(
                popularity, top, triangle, pair_deviation, self.config.statistics
            )

    @property
    def _half(self) -> bool:
        return self.config.training.send_precision == "float16"

    def _check_update(self, reply: Reply) -> None:
        training = self.config.training
        if self._half and not are_halved(reply.arrays):
            raise FederationError(f"{reply.name}: an update that is not float16, as was asked for")
        if self._half:
            reply = dataclasses.replace(reply, arrays=widened(reply.arrays))
        shapes = {name: tuple(value.shape) for name, value in self._adapter.items()}
        reach = training.steps_per_round * training.step_size
        check_update(reply, shapes, self.plan.mechanism("step"), reach)
