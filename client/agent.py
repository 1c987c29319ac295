"""The agent of one organisation: it alone touches the histories, and it decides what may leave.

Everything that can be asked of it is judged by the organisation's policy before anything is
computed: its public figures, a plan, the two statistics, training, evaluation, and to take what the
server hands back.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
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
from client.resources import Resources, checked_resources
from client.summing import Summing
from client.sums import Floats, Layout
from client.trainer import private_steps, private_sum
from shared.adapters import Arrays, load_adapter, load_arrays, save_adapter
from shared.cards import MaskedSums, adapter_card
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import DELIVERY, statistics_from_arrays
from shared.errors import FederationError
from shared.files import atomic_directory, atomic_path, write_json
from shared.fixed_point import clamped
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
from shared.wire import are_halved, halved, widened


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
        state = directory / "keys" / "secure_sum.json"
        self._summing = Summing(state, self.releases, ledger, catalogue.key_hashes)
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
        plan = plan_of(request, "popularity")
        mechanism, keys = plan.mechanism("popularity"), self.catalogue.key_hashes
        layout, first, place = None, np.arange(len(keys)), np.arange(len(keys))
        if plan.secure:
            # Items of one key share a coordinate of the sum, and a user's row must have norm 1.
            keys, first, place = np.unique(keys, return_index=True, return_inverse=True)
            layout = Layout.of_items(keys, request.arrays.get("keys"))

        def compute(random: PrivateRandom) -> Floats:
            count = self.releases.canaries
            canaries = Canaries.on_items(count, request.run, request.round, keys, first)

            def total(chosen: PrivateHistories) -> Floats:
                merged = replace(chosen, items=place[chosen.items]) if plan.secure else chosen
                return popularity_sum(merged, len(keys))

            return self._noised(request, mechanism, total, random, canaries, layout)

        return self._release_sum(request, mechanism, compute, {"keys": keys})

    def cooccurrence(self, request: Request) -> Reply:
        """Release G over those of the asked items that this organisation has."""
        plan = plan_of(request, "cooccurrence")
        mechanism = plan.mechanism("cooccurrence")
        wanted = request.arrays.get("keys")
        if wanted is None or wanted.dtype != np.uint64 or wanted.ndim != 1:
            raise FederationError("cooccurrence: expected an array keys of uint64")
        if plan.secure and len(np.unique(wanted)) != len(wanted):
            raise FederationError("cooccurrence: some keys are asked for twice")
        if len(wanted) > self.most_items:
            raise FederationError(
                f"cooccurrence: asked for {len(wanted)} items, {self.identity.name} gives at most "
                f"{self.most_items}; raise statistics.top_items on both sides"
            )
        places = {int(key): place for place, key in enumerate(self.catalogue.key_hashes)}
        own = np.array([k for k in dict.fromkeys(wanted.tolist()) if k in places], dtype=np.uint64)
        top = np.array([places[int(key)] for key in own], dtype=np.int64)
        most = self.policy.model.most_parameters
        layout = None
        if plan.secure:
            asked = {int(key): place for place, key in enumerate(wanted)}
            layout = Layout.of_pairs([asked[int(key)] for key in own], len(asked))
        if triangle_size(len(wanted) if plan.secure else len(own)) > most:
            raise self.releases.refuse(
                request.identifier("cooccurrence"),
                "model.most_parameters",
                f"pairs of {len(own)} items are {triangle_size(len(own))} numbers; at most {most} "
                "are allowed",
            )

        def compute(random: PrivateRandom) -> Floats:
            canaries = Canaries.on_pairs(
                self.releases.canaries, request.run, request.round, own, top
            )

            def total(chosen: PrivateHistories) -> Floats:
                return cooccurrence_sum(chosen, top, self.config.statistics)

            return self._noised(request, mechanism, total, random, canaries, layout)

        return self._release_sum(request, mechanism, compute, {"keys": own})

    def train(self, request: Request) -> Reply:
        """Run the round's private steps from the given adapter and release the noised update.

        The update leaves in the precision in which the adapter came: rounding is post-processing.
        """
        plan = plan_of(request, "step")
        mechanism = plan.mechanism("step")
        resources = self._check_model(request, "step")
        # Before the budget is touched: a malformed adapter or a missing delivery costs nothing.
        adapter = request.payload
        half = are_halved(adapter)
        load_arrays(resources.trainable.model, widened(adapter) if half else adapter)
        self.statistics()
        steps = self.config.training.steps_per_round
        if plan.secure:
            if steps != 1:
                raise FederationError("train: a secure sum is of one private step a round")
            return self._summing.release(
                request, mechanism, partial(self._train_sum, request, mechanism)
            )

        def compute(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            update = self._train(request, mechanism, steps, random)
            return halved(update) if half else update

        return self.releases.release(request, mechanism, steps, compute)

    def evaluate(self, request: Request) -> Reply:
        """Release noised sums of hits, discounted gains and users on what training never saw."""
        plan = plan_of(request, "evaluation")
        mechanism = plan.mechanism("evaluation")
        self._check_model(request, "evaluation")
        scorer = self.scorer()
        cutoff = self.config.evaluation.cutoff

        def total(chosen: PrivateHistories) -> Floats:
            found = evaluation_sum(scorer, chosen, cutoff)
            declared = self.identity.declared_users
            return clamped(found, declared, mechanism.sensitivity) if plan.secure else found

        def compute(random: PrivateRandom) -> Floats:
            return noised_sum(self._histories, total, mechanism, random)

        return self._release_sum(request, mechanism, compute, {})

    def aggregate(self, request: Request, phase: str, name: str) -> Reply:
        """A phase of a secure sum before or after the masked input; costs nothing.

        Args:
            request: of the phase.
            phase: ``keys``, ``shares`` or ``unmask``.
            name: of the mechanism whose sum it is.
        """
        return self._summing.phase(request, phase, name)

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
        card = self._card(request)
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
        return self._resources().adapter_shapes

    def _check_model(self, request: Request, kind: str) -> Resources:
        """Refuse another model than the one held here, and one that the policy does not allow."""
        rules, load = self.policy.model, self._resources
        return checked_resources(request, kind, load, self.config, rules, self.releases)

    def _release_sum(
        self,
        request: Request,
        mechanism: Mechanism,
        compute: Callable[[PrivateRandom], Floats],
        public: dict[str, npt.NDArray[Any]],
    ) -> Reply:
        """Release a noised sum: under masks, or beside the names of its coordinates."""
        if plan_of(request, mechanism.name).secure:
            return self._summing.release(request, mechanism, compute)

        def values(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            return public | {"values": compute(random).astype(np.float32)}

        return self.releases.release(request, mechanism, 1, values)

    def _noised(
        self,
        request: Request,
        mechanism: Mechanism,
        total: Callable[[PrivateHistories], Floats],
        random: PrivateRandom,
        canaries: Canaries | None,
        layout: Layout | None,
    ) -> Floats:
        """A statistic with noise, without the canaries' parts, and their record kept.

        With a layout it has the coordinates of the sum of all organisations.
        """
        declared, summed = self.identity.declared_users, total
        if layout is not None:

            def summed(chosen: PrivateHistories) -> Floats:
                return layout.widened(total(chosen), declared, mechanism.sensitivity)

        with stage("statistics"):
            noised = noised_sum(self._training, summed, mechanism, random, canaries)
        self._keep_canaries(canaries, mechanism, request)
        return noised if layout is None else layout.spread(noised)

    def _train(
        self, request: Request, mechanism: Mechanism, steps: int, random: PrivateRandom
    ) -> dict[str, npt.NDArray[Any]]:
        """The update of ``steps`` private steps, noised."""
        with self._training_of(request, mechanism) as (canaries, given):
            update = private_steps(steps=steps, random=random, canaries=canaries, **given)
        return dict(update.arrays)

    def _train_sum(self, request: Request, mechanism: Mechanism, random: PrivateRandom) -> Floats:
        """The noised sum of clipped gradients of one private step."""
        with self._training_of(request, mechanism) as (canaries, given):
            return private_sum(random=random, canaries=canaries, **given)

    @contextmanager
    def _training_of(
        self, request: Request, mechanism: Mechanism
    ) -> Iterator[tuple[Canaries | None, dict[str, Any]]]:
        """Canaries and arguments of the trainer; the canaries' record is kept at the end."""
        resources, config = self._resources(), self.config
        runtime, model = resources.trainable.runtime, resources.trainable.model
        canaries = Canaries.on_adapter(
            self.releases.canaries, request.run, request.round, list(model.trained.values())
        )
        prior = torch.from_numpy(self.statistics().log_popularity).float().to(runtime.device)
        seeds = np.random.SeedSequence((config.run.seed, request.round))
        started = time.perf_counter()
        yield (
            canaries,
            {
                "trainable_model": resources.trainable,
                "histories": self._training,
                "items": resources.items,
                "prior": prior,
                "mechanism": mechanism,
                "declared_users": self.identity.declared_users,
                "window": config.model.window,
                "clipping": config.privacy.clipping,
                "options": config.training,
                "public_seed": int(seeds.generate_state(1)[0]),
            },
        )
        self.training_seconds += time.perf_counter() - started
        self._keep_canaries(canaries, mechanism, request)

    def _card(self, request: Request) -> str:
        """The card of a delivered adapter: the organisation's own figures, not the server's."""
        plan, epsilon, sums = request.plan, None, None
        if self.ledger.private():
            epsilon = self.ledger.spent()
            # The plan under which this run has spent; a delivery may name any.
            if plan and plan.secure and self.ledger.begun(request.run) == plan.sha256:
                epsilon, alone = self.ledger.spent("joint"), self.ledger.spent("alone")
                sums = MaskedSums(plan.least_participants, plan.colluders, alone)
        delta = self.policy.budget.delta
        return adapter_card(self.config, epsilon, delta, request.run, request.round, sums)

    def _keep_canaries(
        self, canaries: Canaries | None, mechanism: Mechanism, request: Request
    ) -> None:
        if canaries is not None:
            plan = plan_of(request, mechanism.name)
            record = canaries.record(mechanism, plan, request.attempt)
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
