"""The way out of an organisation where it leads into a sum: phases, and the masked input."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.ledger import Ledger
from client.releases import Releases, plan_of
from client.session import Session
from client.sums import Floats
from shared.fixed_point import to_words
from shared.messages import Reply, Request
from shared.plan import Mechanism
from shared.randomness import PrivateRandom
from shared.wire import KEYS, SHARES


class Summing:
    """An organisation's secure sums.

    Args:
        path: file of the present attempt's state.
        releases: what it spends and records by.
        ledger: of the data; carries policy and key.
        items: ``[items] uint64`` public keys of its catalogue.
    """

    def __init__(
        self, path: Path, releases: Releases, ledger: Ledger, items: npt.NDArray[np.uint64]
    ) -> None:
        self._releases = releases
        self._ledger = ledger
        self._items = items
        self._session = Session(path, ledger.key)

    def phase(self, request: Request, phase: str, name: str) -> Reply:
        """A phase before or after the masked input; costs nothing.

        Args:
            request: of the phase.
            phase: ``keys``, ``shares`` or ``unmask``.
            name: of the mechanism whose sum it is.

        Raises:
            RefusedError: if the policy or the protocol forbids it; the refusal is in the ledger.
        """
        plan, policy = plan_of(request, name), self._ledger.policy
        refuse = partial(self._releases.refuse, request.identifier(f"{phase}_{name}"))
        if not plan.secure or name not in {m.name for m in plan.mechanisms}:
            raise refuse("plan", f"the plan has no secure sum of {name}")
        release = request.identifier(name)
        arrays: dict[str, npt.NDArray[Any]]
        if phase == KEYS:
            if self._ledger.intent_of(release) and not self._session.holds(request, name):
                raise refuse("secure.replay", "this attempt was answered under other keys")
            names_items = name == "popularity"
            if names_items and "catalogue_keys" not in policy.egress.fields:
                raise refuse("egress.fields", "catalogue_keys may not leave")
            arrays = dict(self._session.announce(request, plan, name, policy.trust, refuse))
            if names_items:
                arrays["items"] = self._items
        elif phase == SHARES:
            arrays = dict(self._session.deal(request, plan, name, policy.trust, refuse))
        else:
            sent = self._ledger.released_at(release) > 0
            arrays = dict(self._session.unmask(request, plan, name, sent, refuse))
        return self._releases.protocol(request, f"{phase}_{name}", arrays)

    def release(
        self, request: Request, mechanism: Mechanism, compute: Callable[[PrivateRandom], Floats]
    ) -> Reply:
        """Release a noised sum under masks that come off in the sum of all organisations.

        Args:
            request: of the masked input.
            mechanism: of the release.
            compute: gives the noised sum, ``[coordinates] float64``, on the mechanism's grid.

        Raises:
            RefusedError: if the policy, the budget or the protocol forbids it.
        """
        plan = plan_of(request, mechanism.name)
        refuse = partial(self._releases.refuse, request.identifier(mechanism.name))
        participants = self._session.admit(request, plan, mechanism.name, refuse)

        def masked(random: PrivateRandom) -> dict[str, npt.NDArray[Any]]:
            words = to_words(compute(random), mechanism.sensitivity, mechanism.grid_bits)
            return dict(self._session.masked(words, plan.word_bytes))

        return self._releases.release(request, mechanism, 1, masked, participants)
