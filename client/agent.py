"""The agent of one organisation: it alone touches the histories, and it decides what may leave.

Five things can be asked of it: its public figures, the two statistics, training, and to take what
the server hands back. Each is checked against the budget before anything is computed.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file

from client.ledger import Ledger
from client.trainer import Trainable, private_steps
from shared.adapters import arrays_sha256, load_arrays, save_adapter
from shared.cards import adapter_card
from shared.catalogue import Catalogue
from shared.config import Config
from shared.delivery import statistics_from_arrays
from shared.encoder import Vectors
from shared.errors import FederationError, PrivacyError, TacitError
from shared.files import atomic_path
from shared.histories import PrivateHistories
from shared.messages import AnyArrays, Reply, Request, size_bytes, unpack_delivery
from shared.plan import Mechanism, Noise
from shared.randomness import PrivateRandom, from_operating_system, from_seed
from shared.statistics import AUTO_RANGE, Statistics, cooccurrence_sum, popularity_sum
from shared.user_model import item_tensor


@dataclass(frozen=True)
class Identity:
    """What an organisation says of itself in public.

    Attributes:
        name: of the organisation.
        number: its place among the organisations of a simulation; seeds its experiments' noise.
        declared_users: the size it declares; weighs its update and divides its sums.
    """

    name: str
    number: int
    declared_users: int


@dataclass(frozen=True)
class Resources:
    """Public parts of a model that organisations of one simulation share.

    Attributes:
        trainable: the user model under hooks; each training loads its adapter first.
        vectors: ``[items, dim]`` centred item vectors of this organisation's catalogue.
        model_sha256: hash over base weights and frozen adapter factors.
    """

    trainable: Trainable
    vectors: Vectors
    model_sha256: str


class Agent:
    """Long-lived process part of an organisation; one training at a time.

    Args:
        identity: public figures.
        directory: where delivered statistics, the delivered adapter and the last answer are kept.
        catalogue: public items.
        histories: what may be learnt from. Private.
        ledger: of this data.
        config: of the run.
        resources: loads the model when it is first needed.
    """

    def __init__(
        self,
        identity: Identity,
        directory: Path,
        catalogue: Catalogue,
        histories: PrivateHistories,
        ledger: Ledger,
        config: Config,
        resources: Callable[[], Resources],
    ) -> None:
        self.identity = identity
        self.directory = directory
        self.catalogue = catalogue
        self.ledger = ledger
        self.config = config
        self._histories = histories
        self._resources = functools.cache(resources)
        self._statistics: Statistics | None = None
        self.training_seconds = 0.0

    def join(self, request: Request) -> Reply:
        """The public figures alone; costs nothing."""
        return self._reply(request, {})

    def popularity(self, request: Request) -> Reply:
        """Release P over this organisation's catalogue."""
        mechanism = self._mechanism(request, "popularity")
        return self._release(request, mechanism, 1, lambda r: self._popularity(mechanism, r))

    def cooccurrence(self, request: Request) -> Reply:
        """Release G over those of the asked items that this organisation has."""
        mechanism = self._mechanism(request, "cooccurrence")
        wanted = request.arrays.get("keys")
        if wanted is None or wanted.dtype != np.uint64 or wanted.ndim != 1:
            raise FederationError("cooccurrence: expected an array keys of uint64")
        limit = max(self.config.statistics.top_items, AUTO_RANGE[1])
        if len(wanted) > limit:
            raise FederationError(
                f"cooccurrence: asked for {len(wanted)} items, {self.identity.name} gives at most "
                f"{limit}; raise statistics.top_items on both sides"
            )
        return self._release(
            request, mechanism, 1, lambda r: self._cooccurrence(mechanism, wanted, r)
        )

    def train(self, request: Request) -> Reply:
        """Run the round's private steps from the given adapter and release the noised update."""
        mechanism = self._mechanism(request, "step")
        resources = self._resources()
        if request.model_sha256 != resources.model_sha256:
            raise FederationError(
                f"round {request.round}: the update is for model {request.model_sha256[:12]}, "
                f"{self.identity.name} holds {resources.model_sha256[:12]}; use the same base, "
                "adapter settings and seed"
            )
        # Checked and set before the budget is touched: a malformed adapter costs nothing.
        load_arrays(resources.trainable.model, request.arrays)
        steps = self.config.training.steps_per_round
        return self._release(request, mechanism, steps, lambda r: self._train(mechanism, steps, r))

    def deliver_statistics(self, request: Request) -> Reply:
        """Keep the federation's statistics, seen from this organisation's catalogue."""
        statistics = statistics_from_arrays(request.arrays, self.catalogue)
        path = self.directory / "delivered" / "statistics.safetensors"
        with atomic_path(path) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in request.arrays.items()}, temporary)
        self._statistics = statistics
        return self._reply(request, {})

    def deliver_adapter(self, request: Request) -> Reply:
        """Check the federation's adapter and keep it as a PEFT directory."""
        resources = self._resources()
        if request.model_sha256 != resources.model_sha256:
            raise FederationError("the delivered adapter belongs to another model; it is not kept")
        adapter, reliability = unpack_delivery(request.arrays)
        load_arrays(resources.trainable.model, adapter)
        # The organisation's own figures, not the server's word.
        epsilon = self.ledger.spent() if self.ledger.private() else None
        save_adapter(
            resources.trainable.model,
            self.directory / "delivered" / "adapter",
            adapter_card(
                self.config, epsilon, self.ledger.budget.delta, request.run, request.round
            ),
            reliability,
        )
        return self._reply(request, {})

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

    def _mechanism(self, request: Request, name: str) -> Mechanism:
        plan = request.plan
        if plan is None:
            raise PrivacyError(f"{name}: the request carries no privacy plan; it is refused")
        mechanism = plan.mechanism(name)
        # The organisation's own configuration, not the server's word, bounds what is done.
        privacy = self.config.privacy
        if plan.noise is not Noise(privacy.noise):
            raise PrivacyError(
                f"{name}: the plan's noise is {plan.noise.value}, {self.identity.name} takes part "
                f"with {privacy.noise} only"
            )
        limit = privacy.clipping_norm if name == "step" else 1.0
        if mechanism.sensitivity != limit:
            raise PrivacyError(
                f"{name}: the plan's sensitivity is {mechanism.sensitivity:g}, "
                f"{self.identity.name} clips at {limit:g}"
            )
        houses = self.config.partition.organisations if plan.noise is Noise.SHARED else 1
        if mechanism.noise_share < houses**-0.5:
            raise PrivacyError(
                f"{name}: the plan lets {self.identity.name} add only {mechanism.noise_share:g} of "
                f"the noise's deviation; it adds at least {houses**-0.5:g}"
            )
        most = self.config.training.rounds * self.config.training.steps_per_round
        if plan.steps > most:
            raise PrivacyError(
                f"{name}: the plan has {plan.steps} steps; {self.identity.name} takes at most "
                f"{most}"
            )
        if plan.delta > self.ledger.budget.delta:
            raise PrivacyError(
                f"{name}: the plan counts epsilon at delta {plan.delta:g}, the budget allows "
                f"{self.ledger.budget.delta:g}"
            )
        return mechanism

    def _release(
        self,
        request: Request,
        mechanism: Mechanism,
        count: int,
        compute: Callable[[PrivateRandom], dict[str, npt.NDArray[Any]]],
    ) -> Reply:
        """Spend, compute, record, answer; a repeated request gets the stored answer."""
        assert request.plan is not None
        identifier = request.identifier(mechanism.name)
        answer = self.directory / "answers" / f"{mechanism.name}.safetensors"
        arrays = _stored_answer(answer, identifier)
        if arrays is None:
            random = self._random(mechanism, request.round)
            self.ledger.reserve(identifier, mechanism, count, request.plan, random.secret)
            arrays = compute(random)
            for name, value in arrays.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise TacitError(f"{identifier}: {name} is not finite; it is not sent")
            with atomic_path(answer) as temporary:
                save_file(arrays, temporary, metadata={"request": identifier})
        # Also for a stored answer: the process may have ended between keeping it and this line.
        if not self.ledger.released(identifier):
            self.ledger.record_release(
                identifier, mechanism.name, size_bytes(arrays), arrays_sha256(arrays)
            )
        return self._reply(request, arrays)

    def _random(self, mechanism: Mechanism, round_number: int) -> PrivateRandom:
        privacy, number = self.config.privacy, self.identity.number
        kind = ("popularity", "cooccurrence", "step").index(mechanism.name)
        if privacy.noise_seed >= 0:
            return from_seed(privacy.noise_seed, number, round_number, kind)
        if privacy.noise == "none":
            # Only sampling is random here, and a run without noise is not private anyway.
            return from_seed(self.config.run.seed, number, round_number, kind)
        return from_operating_system()

    def _popularity(
        self, mechanism: Mechanism, random: PrivateRandom
    ) -> dict[str, npt.NDArray[Any]]:
        total = popularity_sum(self._sampled(mechanism, random), len(self.catalogue))
        noised = total + mechanism.noise(total.shape, random)
        return {"keys": self.catalogue.key_hashes, "values": noised.astype(np.float32)}

    def _cooccurrence(
        self, mechanism: Mechanism, wanted: npt.NDArray[np.uint64], random: PrivateRandom
    ) -> dict[str, npt.NDArray[Any]]:
        places = {int(key): place for place, key in enumerate(self.catalogue.key_hashes)}
        own = np.array([k for k in dict.fromkeys(wanted.tolist()) if k in places], dtype=np.uint64)
        top = np.array([places[int(key)] for key in own], dtype=np.int64)
        sampled = self._sampled(mechanism, random)
        total = cooccurrence_sum(sampled, top, self.config.statistics)
        noised = total + mechanism.noise(total.shape, random)
        return {"keys": own, "values": noised.astype(np.float32)}

    def _train(
        self, mechanism: Mechanism, steps: int, random: PrivateRandom
    ) -> dict[str, npt.NDArray[Any]]:
        resources, config = self._resources(), self.config
        runtime = resources.trainable.runtime
        started = time.perf_counter()
        update = private_steps(
            resources.trainable,
            self._histories,
            item_tensor(resources.vectors, runtime.device, runtime.precision),
            torch.from_numpy(self.statistics().log_popularity).float().to(runtime.device),
            mechanism,
            steps,
            self.identity.declared_users,
            config.model.window,
            config.privacy.clipping,
            config.training,
            random,
        )
        self.training_seconds += time.perf_counter() - started
        return dict(update.arrays)

    def _sampled(self, mechanism: Mechanism, random: PrivateRandom) -> PrivateHistories:
        if mechanism.sampling_rate == 1.0:
            return self._histories
        return self._histories.select(mechanism.sample(len(self._histories), random))

    def _reply(self, request: Request, arrays: AnyArrays) -> Reply:
        return Reply(self.identity.name, self.identity.declared_users, request.round, dict(arrays))


def _stored_answer(path: Path, identifier: str) -> dict[str, npt.NDArray[Any]] | None:
    if not path.exists():
        return None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("request") != identifier:
            return None
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
