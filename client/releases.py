"""Every reply of an organisation: spend, compute, record, answer, in this order and on record.

What a release costs is in the ledger before anything is computed, and what leaves is in it before
it leaves. A repeated request gets the stored answer and costs nothing.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from client.code import code_version
from client.ledger import Ledger, refused
from shared.config import Config
from shared.entries import Intent, Refusal, Release
from shared.errors import FederationError, PrivacyError, RefusedError, TacitError
from shared.files import atomic_path
from shared.messages import Reply, Request
from shared.plan import MECHANISMS, Mechanism, PrivacyPlan
from shared.randomness import PrivateRandom, from_operating_system, from_seed
from shared.stages import stage
from shared.wire import AnyArrays, arrays_sha256, size_bytes

LOGGER = logging.getLogger(__name__)

FIELDS = ("name", "declared_users", "round")

Compute = Callable[[PrivateRandom], dict[str, npt.NDArray[Any]]]


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


class Releases:
    """The way out of one organisation.

    Args:
        identity: public figures.
        directory: where the last answer of each mechanism is kept.
        ledger: of this data; carries the policy.
        config: of the run.
    """

    def __init__(self, identity: Identity, directory: Path, ledger: Ledger, config: Config) -> None:
        self.identity = identity
        self.directory = directory
        self.ledger = ledger
        self.config = config

    def release(
        self,
        request: Request,
        mechanism: Mechanism,
        count: int,
        compute: Compute,
        participants: tuple[str, ...] = (),
    ) -> Reply:
        """Spend, compute, record, answer; a repeated request gets the stored answer.

        Args:
            request: that asks for it.
            mechanism: of the release.
            count: releases of it.
            compute: what leaves.
            participants: keys of the organisations of a secure sum.
        """
        plan = plan_of(request, mechanism.name)
        identifier = request.identifier(mechanism.name)
        answer = self.directory / "answers" / f"{mechanism.name}.safetensors"
        with stage("files"):
            arrays = _stored_answer(answer, identifier)
        if arrays is not None and request.anchor is not None:
            # Another organisation's request is not answered here; the reservation sees to it, too.
            self.ledger.keep_anchor(request.anchor)
        if arrays is None:
            random = self._random(mechanism, request.round)
            intent = self.intent(request, mechanism, count, random.secret, participants)
            self.ledger.reserve(identifier, intent, plan, request.anchor)
            arrays = self._compute(identifier, compute, random)
            with stage("files"), atomic_path(answer) as temporary:
                save_file(arrays, temporary, metadata={"request": identifier})
                # Of an earlier request. Were it renamed over, the disk would be waited for.
                answer.unlink(missing_ok=True)
        # Also for a stored answer: the process may have ended between keeping it and this line.
        if not self.ledger.released_at(identifier):
            self.ledger.record_release(
                identifier, self._described(mechanism.name, identifier, arrays)
            )
        return self._reply(request, arrays)

    def _compute(
        self,
        identifier: str,
        compute: Compute,
        random: PrivateRandom,
    ) -> dict[str, npt.NDArray[Any]]:
        """Run what touches the histories; what goes wrong there is told here and not outside."""
        try:
            arrays = compute(random)
            for name, value in arrays.items():
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise TacitError(f"{name} is not finite")
        except Exception as error:
            LOGGER.exception("%s: the computation failed", identifier)
            # Ledgers are shown to outsiders: the text, which may quote data, stays in the log.
            self.ledger.record_refusal(identifier, Refusal("computation", type(error).__name__))
            raise FederationError(
                f"{identifier}: the computation failed at {self.identity.name}; its log says why"
            ) from error
        return arrays

    def intent(
        self,
        request: Request,
        mechanism: Mechanism,
        count: int,
        secret: bool,
        participants: tuple[str, ...] = (),
    ) -> Intent:
        """What the ledger is to say before a release is computed.

        Args:
            request: that asks for it.
            mechanism: of the release.
            count: releases of it.
            secret: whether nobody can repeat its randomness.
            participants: of a secure sum; empty where a plan is only judged.
        """
        plan = plan_of(request, mechanism.name)
        from_adapter = mechanism.name == "step" and bool(request.arrays)
        return Intent.of(
            mechanism,
            plan,
            count,
            run=request.run,
            round=request.round,
            federation=request.federation,
            secret_randomness=secret,
            adapter_before=request.payload_sha256 if from_adapter else "",
            participants=participants,
            policy=self.ledger.policy_sha256,
            population=self.ledger.population,
            code=code_version(),
            canaries=self.canaries if mechanism.name != "evaluation" else 0,
        )

    def public(self, request: Request, kind: str) -> Reply:
        """A reply of public fields alone, on record like every other."""
        missing = {"name", "declared_users"} - set(self.ledger.policy.egress.fields)
        identifier = request.identifier(kind)
        if missing:
            raise self.refuse(
                identifier, "egress.fields", f"{' and '.join(sorted(missing))} may not leave"
            )
        if request.anchor is not None:
            self.ledger.keep_anchor(request.anchor)
        self.ledger.record_release(identifier, self._described("none", identifier, {}))
        return self._reply(request, {})

    def protocol(self, request: Request, kind: str, arrays: AnyArrays) -> Reply:
        """A reply of a secure sum's phase, whose arrays are no function of the data; on record.

        The server's anchor is kept with the masked input, once for all phases.
        """
        identifier = request.identifier(kind)
        self.ledger.record_release(identifier, self._described("protocol", identifier, arrays))
        return self._reply(request, arrays)

    def refuse(self, request: str, rule: str, sentence: str) -> RefusedError:
        """Put a refusal on record and return it as an error."""
        refusal = Refusal(rule, sentence)
        self.ledger.record_refusal(request, refusal)
        return refused(self.identity.name, [refusal])

    def _described(self, mechanism: str, identifier: str, arrays: AnyArrays) -> Release:
        fields = (*FIELDS, "head") if "ledger_head" in self.ledger.policy.egress.fields else FIELDS
        return Release(
            mechanism,
            self.ledger.intent_of(identifier) if mechanism in MECHANISMS else 0,
            arrays_sha256(arrays),
            size_bytes(arrays),
            tuple(f"{n} {v.dtype} {list(v.shape)}" for n, v in sorted(arrays.items())),
            fields,
        )

    def _random(self, mechanism: Mechanism, round_number: int) -> PrivateRandom:
        privacy, number = self.config.privacy, self.identity.number
        kind = MECHANISMS.index(mechanism.name)
        if privacy.noise_seed >= 0:
            return from_seed(privacy.noise_seed, number, round_number, kind)
        if privacy.noise == "none":
            # Only sampling is random here, and a run without noise is not private anyway.
            return from_seed(self.config.run.seed, number, round_number, kind)
        return from_operating_system()

    @property
    def canaries(self) -> int:
        """How many ride on a release."""
        # Without noise there is no claim to audit.
        return self.config.audit.canaries if self.config.privacy.noise != "none" else 0

    def _reply(self, request: Request, arrays: AnyArrays) -> Reply:
        head = self.ledger.head() if "ledger_head" in self.ledger.policy.egress.fields else None
        name, declared = self.identity.name, self.identity.declared_users
        return Reply(name, declared, request.round, dict(arrays), head=head)


def plan_of(request: Request, name: str) -> PrivacyPlan:
    """The plan that a request for the mechanism ``name`` must carry.

    Raises:
        PrivacyError: if it carries none.
    """
    if request.plan is None:
        raise PrivacyError(f"{name}: the request carries no privacy plan; it is refused")
    return request.plan


def _stored_answer(path: Path, identifier: str) -> dict[str, npt.NDArray[Any]] | None:
    if not path.exists():
        return None
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        if (file.metadata() or {}).get("request") != identifier:
            return None
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
