"""The federation's strategy: which messages a round sends, and what is made of the replies."""

import dataclasses
import logging
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from server.aggregation import (
    IterateAverage,
    ServerOptimizer,
    Signal,
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
from server.evaluation import check_evaluation, private_evaluation
from server.inquiry import Inquiry
from server.observers import PrivateEvaluation
from shared import messages
from shared.adapters import Arrays
from shared.config import Config
from shared.errors import FederationError
from shared.messages import Reply
from shared.plan import PrivacyPlan
from shared.stages import stage
from shared.wire import are_halved, halved, pack_arrays, unpack_arrays, widened

LOGGER = logging.getLogger(__name__)


class FederationStrategy(Strategy):
    """Statistics first, then weighted means of adapter updates through the server's optimiser.

    Args:
        config: of the run.
        inquiry: sends its requests and checks its replies.
        plan: what every organisation is asked to release.
        optimizer: of the server.
        average: of iterates.
        signal: estimates how reliable the adapter is.
    """

    def __init__(
        self,
        config: Config,
        inquiry: Inquiry,
        plan: PrivacyPlan,
        optimizer: ServerOptimizer,
        average: IterateAverage,
        signal: Signal,
    ) -> None:
        self.config = config
        self.inquiry = inquiry
        self.plan = plan
        self.optimizer = optimizer
        self.average = average
        self.signal = signal
        self._adapter: Arrays = {}

    def statistics(self, grid: Grid) -> dict[str, npt.NDArray[np.generic]]:
        """Ask for P, then for G over the top of noisy P, as far as the plan has them."""
        if self.plan.popularity is None:
            return no_statistics()
        mechanism = self.plan.popularity
        replies = self.inquiry.ask(
            grid, messages.POPULARITY, {}, lambda reply: check_popularity(reply, mechanism)
        )
        with stage("aggregate"):
            popularity = sum_popularity(replies, mechanism)
        top = np.empty(0, dtype=np.int64)
        triangle = np.empty(0)
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
        with stage("aggregate"):
            return statistics_arrays(popularity, top, triangle, self.config.statistics)

    def evaluation(self, grid: Grid) -> PrivateEvaluation:
        """Ask for the noised sums of hits, gains and users, and divide them."""
        mechanism = self.plan.mechanism("evaluation")
        replies = self.inquiry.ask(
            grid,
            messages.EVALUATE,
            {},
            lambda reply: check_evaluation(reply, mechanism),
            self.config.training.rounds + 1,
        )
        return private_evaluation(replies, mechanism)

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
            self._adapter = self.optimizer.step(self._adapter, update)
            self.average.add(server_round, self._adapter)
            training, mechanism = self.config.training, self.plan.mechanism("step")
            self.signal.add(
                update,
                noise_deviation(usable, mechanism, training.steps_per_round, training.step_size),
            )
            norm = math.sqrt(squared_norm(update))
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
