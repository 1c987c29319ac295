"""The agent of one organisation: it alone touches the histories, and it decides what may leave.

Everything that can be asked of it is judged by the organisation's policy before anything is
computed: its public figures, a plan, the two statistics, training, evaluation, and to take what the
server hands back.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file

from client.budget import Judgement
from client.canaries import Canaries, noised_sum
from client.evaluation import evaluation_sum
from client.ledger import Ledger
from client.releases import Identity, Releases, plan_of
from client.trainer import Trainable, private_steps
from shared.adapters import Arrays, load_adapter, load_arrays, save_adapter
from shared.cards import adapter_card
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import DELIVERY, statistics_from_arrays
from shared.encoder import Vectors
from shared.errors import FederationError
from shared.files import atomic_directory, atomic_path, write_json
from shared.histories import PrivateHistories
from shared.messages import Reply, Request, unpack_delivery
from shared.plan import Mechanism
from shared.policy import Policy
from shared.randomness import PrivateRandom
from shared.scoring import Scorer
from shared.stages import stage
from shared.statistics import (
    AUTO_RANGE,
    Statistics,
    cooccurrence_sum,
    popularity_sum,
    triangle_size,
)
from shared.user_model import item_tensor
from shared.wire import are_halved, halved, widened


@dataclass(frozen=True)
class Resources:
    """Public parts of a model that organisations of one simulation share.

    Attributes:
        trainable: the user model under hooks; each training loads its adapter first.
        vectors: ``[items, dim]`` centred item vectors of this organisation's catalogue.
        model_sha256: hash over base weights and frozen adapter factors.
        base_sha256: hash of the base's weights.
    """

    trainable: Trainable
    vectors: Vectors
    model_sha256: str
    base_sha256: str

    @functools.cached_property
    def items(self) -> torch.Tensor:
        """The item vectors where the model is, made once."""
        runtime = self.trainable.runtime
        with stage("vectors"):
            return item_tensor(self.vectors, runtime.device, runtime.precision)


class Agent:
    """Long-lived process part of an organisation; one training at a time.

    Args:
        number: its place among the organisations of a simulation; seeds its experiments' noise.
        directory: where delivered statistics, the delivered adapter and the last answer are kept.
        catalogue: public items.
        training: what may be learnt from. Private.
        histories: whole ones, for evaluation on what training never saw. Private.
        ledger: of this data; carries the policy.
        config: of the run.
        resources: loads the model when it is first needed.
    """

    def __init__(
        self,
        number: int,
        directory: Path,
        catalogue: Catalogue,
        training: PrivateHistories,
        histories: PrivateHistories,
        ledger: Ledger,
        config: Config,
        resources: Callable[[], Resources],
    ) -> None:
        rules = ledger.policy.organisation
        self.identity = Identity(rules.name, number, rules.declared_users)
        self.directory = directory
        self.catalogue = catalogue
        self.ledger = ledger
        self.config = config
        self.releases = Releases(self.identity, directory, ledger, config)
        self._training = training
        self._histories = histories
        self._resources = functools.cache(resources)
        self._statistics: Statistics | None = None
        self._adapter: tuple[Arrays, float] | None = None
        self.training_seconds = 0.0

    @property
    def policy(self) -> Policy:
        """In force."""
        return self.ledger.policy

    def join(self, request: Request) -> Reply:
        """The public figures alone; costs nothing."""
        return self.releases.public(request, "join")

    def plan(self, request: Request) -> Reply:
        """Judge a whole plan before anything of it runs; the judgement stays here."""
        plan = plan_of(request, "plan")
        if plan.step or plan.evaluation:
            self._check_model(request, "plan")
        steps = min(self.config.training.steps_per_round, plan.steps)
        secret = self.config.privacy.noise_seed < 0 and self.config.privacy.noise != "none"
        intents = [
            self.releases.intent(request, m, steps if m.name == "step" else 1, secret)
            for m in plan.mechanisms
        ]
        if not intents:
            raise FederationError("plan: it has no mechanism; there is nothing to judge")
        if self.ledger.begun(request.run) != plan.sha256:
            judgement = self.ledger.propose(request.identifier("plan"), intents, plan)
            self._keep_judgement(judgement)
        return self.releases.public(request, "plan")

    def popularity(self, request: Request) -> Reply:
        """Release P over this organisation's catalogue."""
        mechanism = plan_of(request, "popularity").mechanism("popularity")
        keys = self.catalogue.key_hashes

        def compute(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            canaries = Canaries.on_items(self.releases.canaries, request.run, request.round, keys)

            def total(chosen: PrivateHistories) -> npt.NDArray[np.float64]:
                return popularity_sum(chosen, len(self.catalogue))

            noised = self._noised(request, mechanism, total, random, canaries)
            return {"keys": keys, "values": noised}

        return self.releases.release(request, mechanism, 1, compute)

    def cooccurrence(self, request: Request) -> Reply:
        """Release G over those of the asked items that this organisation has."""
        mechanism = plan_of(request, "cooccurrence").mechanism("cooccurrence")
        wanted = request.arrays.get("keys")
        if wanted is None or wanted.dtype != np.uint64 or wanted.ndim != 1:
            raise FederationError("cooccurrence: expected an array keys of uint64")
        if len(wanted) > self.most_items:
            raise FederationError(
                f"cooccurrence: asked for {len(wanted)} items, {self.identity.name} gives at most "
                f"{self.most_items}; raise statistics.top_items on both sides"
            )
        places = {int(key): place for place, key in enumerate(self.catalogue.key_hashes)}
        own = np.array([k for k in dict.fromkeys(wanted.tolist()) if k in places], dtype=np.uint64)
        top = np.array([places[int(key)] for key in own], dtype=np.int64)
        most = self.policy.model.most_parameters
        if triangle_size(len(own)) > most:
            raise self.releases.refuse(
                request.identifier("cooccurrence"),
                "model.most_parameters",
                f"pairs of {len(own)} items are {triangle_size(len(own))} numbers; at most {most} "
                "are allowed",
            )

        def compute(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            canaries = Canaries.on_pairs(
                self.releases.canaries, request.run, request.round, own, top
            )

            def total(chosen: PrivateHistories) -> npt.NDArray[np.float64]:
                return cooccurrence_sum(chosen, top, self.config.statistics)

            noised = self._noised(request, mechanism, total, random, canaries)
            return {"keys": own, "values": noised}

        return self.releases.release(request, mechanism, 1, compute)

    def train(self, request: Request) -> Reply:
        """Run the round's private steps from the given adapter and release the noised update.

        The update leaves in the precision in which the adapter came: rounding is post-processing.
        """
        mechanism = plan_of(request, "step").mechanism("step")
        resources = self._check_model(request, "step")
        # Before the budget is touched: a malformed adapter or a missing delivery costs nothing.
        half = are_halved(request.arrays)
        load_arrays(resources.trainable.model, widened(request.arrays) if half else request.arrays)
        self.statistics()
        steps = self.config.training.steps_per_round

        def compute(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            update = self._train(request, mechanism, steps, random)
            return halved(update) if half else update

        return self.releases.release(request, mechanism, steps, compute)

    def evaluate(self, request: Request) -> Reply:
        """Release noised sums of hits, discounted gains and users on what training never saw."""
        mechanism = plan_of(request, "evaluation").mechanism("evaluation")
        self._check_model(request, "evaluation")
        scorer = self.scorer()
        cutoff = self.config.evaluation.cutoff

        def compute(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            noised = noised_sum(
                self._histories,
                lambda chosen: evaluation_sum(scorer, chosen, cutoff),
                mechanism,
                random,
            )
            return {"values": noised.astype(np.float32)}

        return self.releases.release(request, mechanism, 1, compute)

    def deliver_statistics(self, request: Request) -> Reply:
        """Keep the federation's statistics, seen from this organisation's catalogue."""
        statistics = statistics_from_arrays(request.arrays, self.catalogue)
        path = self.directory / "delivered" / "statistics.safetensors"
        with atomic_path(path) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in request.arrays.items()}, temporary)
        self._keep_settings(request)
        self._statistics = statistics
        return self.releases.public(request, "deliver_statistics")

    def deliver_adapter(self, request: Request) -> Reply:
        """Check the federation's adapter and keep it as a PEFT directory."""
        resources = self._check_model(request, "deliver_adapter")
        adapter, reliability = unpack_delivery(request.arrays)
        load_arrays(resources.trainable.model, adapter)
        # The organisation's own figures, not the server's word.
        epsilon = self.ledger.spent() if self.ledger.private() else None
        card = adapter_card(
            self.config, epsilon, self.policy.budget.delta, request.run, request.round
        )
        # Whoever recommends may read it at any moment.
        with atomic_directory(self.directory / "delivered" / "adapter") as folder:
            save_adapter(resources.trainable.model, folder, card, reliability)
            write_json(folder / DELIVERY, {"run": request.run, "round": request.round})
        self._keep_settings(request)
        self._adapter = adapter, reliability
        return self.releases.public(request, "deliver_adapter")

    def statistics(self) -> Statistics:
        """The delivered statistics.

        Raises:
            FederationError: if none were delivered yet.
        """
        path = self.directory / "delivered" / "statistics.safetensors"
        if self._statistics is None:
            if not path.exists():
                raise FederationError(f"{self.identity.name}: no statistics were delivered yet")
            # Another process of the same organisation may have taken the delivery.
            self._statistics = statistics_from_arrays(load_file(path), self.catalogue)
        return self._statistics

    def scorer(self) -> Scorer:
        """Scores with what was delivered: statistics, and the adapter if there is one.

        Raises:
            FederationError: if no statistics were delivered yet.
        """
        statistics, path = self.statistics(), self.directory / "delivered" / "adapter"
        resources = self._resources()
        model, runtime = resources.trainable.model, resources.trainable.runtime
        if self._adapter is None and path.exists():
            self._adapter = load_adapter(model, path)
        adapter, reliability = self._adapter or (None, 0.0)
        return Scorer(
            self.config, statistics, resources.vectors, adapter, model, runtime, reliability
        )

    @property
    def most_items(self) -> int:
        """Most items over which G is given."""
        return max(self.config.statistics.top_items, AUTO_RANGE[1])

    def adapter_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of an adapter update, by name."""
        trained = self._resources().trainable.model.trained
        return {name: tuple(value.shape) for name, value in trained.items()}

    def _check_model(self, request: Request, kind: str) -> Resources:
        """Refuse another model than the one held here, and one that the policy does not allow."""
        rules, identifier = self.policy.model, request.identifier(kind)
        # Before a model of that size is made.
        if self.config.model.rank > rules.greatest_rank:
            raise self.releases.refuse(
                identifier,
                "model.greatest_rank",
                f"the adapter's rank is {self.config.model.rank}; at most {rules.greatest_rank} is "
                "allowed",
            )
        resources = self._resources()
        positions = resources.trainable.model.positions
        if self.config.model.window > positions:
            # Otherwise whether training fails would tell whether some history is that long.
            raise self.releases.refuse(
                identifier,
                "model.window",
                f"the window is {self.config.model.window}; the model reads {positions} positions",
            )
        if request.model_sha256 != resources.model_sha256:
            raise self.releases.refuse(
                identifier,
                "model",
                f"the request is for model {request.model_sha256[:12]}, {self.identity.name} holds "
                f"{resources.model_sha256[:12]}; use the same base, adapter settings and seed",
            )
        if rules.allowed_bases and resources.base_sha256 not in rules.allowed_bases:
            raise self.releases.refuse(
                identifier,
                "model.allowed_bases",
                f"base {self.config.base.name} has weights {resources.base_sha256[:12]}, which are "
                "not among those allowed",
            )
        size = sum(int(np.prod(shape)) for shape in self.adapter_shapes().values())
        if size > rules.most_parameters:
            raise self.releases.refuse(
                identifier,
                "model.most_parameters",
                f"an update would carry {size} numbers; at most {rules.most_parameters} are "
                "allowed",
            )
        return resources

    def _noised(
        self,
        request: Request,
        mechanism: Mechanism,
        total: Callable[[PrivateHistories], npt.NDArray[np.float64]],
        random: PrivateRandom,
        canaries: Canaries | None,
    ) -> npt.NDArray[np.float32]:
        """A statistic with noise, without the canaries' parts, and their record kept."""
        with stage("statistics"):
            noised = noised_sum(self._training, total, mechanism, random, canaries)
        self._keep_canaries(canaries, mechanism, request)
        return noised.astype(np.float32)

    def _train(
        self, request: Request, mechanism: Mechanism, steps: int, random: PrivateRandom
    ) -> dict[str, npt.NDArray[Any]]:
        resources, config = self._resources(), self.config
        runtime, model = resources.trainable.runtime, resources.trainable.model
        canaries = Canaries.on_adapter(
            self.releases.canaries, request.run, request.round, list(model.trained.values())
        )
        started = time.perf_counter()
        update = private_steps(
            resources.trainable,
            self._training,
            resources.items,
            torch.from_numpy(self.statistics().log_popularity).float().to(runtime.device),
            mechanism,
            steps,
            self.identity.declared_users,
            config.model.window,
            config.privacy.clipping,
            config.training,
            random,
            canaries,
            int(np.random.SeedSequence((config.run.seed, request.round)).generate_state(1)[0]),
        )
        self.training_seconds += time.perf_counter() - started
        self._keep_canaries(canaries, mechanism, request)
        return dict(update.arrays)

    def _keep_canaries(
        self, canaries: Canaries | None, mechanism: Mechanism, request: Request
    ) -> None:
        if canaries is not None:
            record = canaries.record(mechanism, plan_of(request, mechanism.name))
            record.save(self.directory / "audit" / request.run)

    def _keep_settings(self, request: Request) -> None:
        """Whoever recommends with a delivery needs the settings that it was made under."""
        if request.settings:
            with atomic_path(self.directory / "delivered" / "settings.json") as temporary:
                temporary.write_text(request.settings)

    def _keep_judgement(self, judgement: Judgement) -> None:
        write_json(
            self.directory / "judgement.json",
            {
                "epsilon_now": str(judgement.now),
                "epsilon_planned": str(judgement.planned),
                "epsilon_budget": None if judgement.budget is None else str(judgement.budget),
                "delta": str(judgement.delta),
            },
        )
