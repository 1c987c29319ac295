"""The egress guard: nothing leaves an organisation but replies that are expected and on record.

The last step before an answer leaves the agent. It trusts nothing that stands before it: fields are
compared with what may be there, arrays with the ledger's record of this release. Anything else is
dropped, and the ledger says so.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from client.agent import Agent
from client.ledger import Ledger, refused
from client.releases import plan_of
from shared import messages
from shared.errors import FederationError
from shared.masks import SECRET_BYTES
from shared.messages import Reply, Request
from shared.plan import MECHANISMS
from shared.roster import SEALED_BYTES, SIGNATURE_BYTES
from shared.stages import stage
from shared.statistics import triangle_size
from shared.wire import KEYS, PHASE_OF, SHARES, AnyArrays, are_halved, arrays_sha256

# Which mechanism makes the arrays of a reply; a reply of a kind that is not here carries none.
MECHANISM_OF = {
    messages.POPULARITY: "popularity",
    messages.COOCCURRENCE: "cooccurrence",
    messages.TRAIN: "step",
    messages.EVALUATE: "evaluation",
}
PUBLIC = {
    messages.JOIN: "join",
    messages.PLAN: "plan",
    messages.DELIVER_STATISTICS: "deliver_statistics",
    messages.DELIVER_ADAPTER: "deliver_adapter",
}

Shapes = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


def name_of(kind: str) -> str:
    """What a message of a kind is called in requests' names in the ledger.

    Raises:
        FederationError: if no such message is known.
    """
    name = MECHANISM_OF.get(kind) or PUBLIC.get(kind) or "_".join(PHASE_OF.get(kind, ()))
    if not name:
        raise FederationError(f"message: none of kind {kind[:100]!r} is known")
    return name


def check_reply(kind: str, request: Request, reply: Reply, agent: Agent) -> None:
    """Refuse a reply that is not what a request of this kind may be answered with.

    Raises:
        RefusedError: says what was found; the refusal is in the ledger.
    """
    name = name_of(kind)
    identifier = request.identifier(name)
    try:
        with stage("checks"):
            _check_fields(reply, agent, request.round, identifier)
            if kind in PHASE_OF:
                _check_phase(reply.arrays, kind, request.arrays, agent)
            elif kind in MECHANISM_OF and request.plan is not None and request.plan.secure:
                _check_masked(reply.arrays, kind, request, agent)
            elif kind in MECHANISM_OF:
                _check_arrays(reply.arrays, kind, request.arrays, agent)
            elif reply.arrays:
                raise FederationError(f"a reply to {kind} carries arrays {sorted(reply.arrays)}")
            mechanism = name if kind in MECHANISM_OF else "none"
            mechanism = "protocol" if kind in PHASE_OF else mechanism
            _check_ledger(reply.arrays, identifier, mechanism, agent)
    except FederationError as error:
        raise agent.releases.refuse(identifier, "egress", str(error)) from error


def on_record(reason: str, requests: Iterable[str], ledger: Ledger) -> bool:
    """Whether a reason is made of refusals that the ledger has for these requests, and no more."""
    known = [refusal for request in requests for refusal in ledger.refusals_of(request)]
    told = [refusal for refusal in known if f"[{refusal.rule}] {refusal.sentence}" in reason]
    return bool(told) and str(refused(ledger.policy.organisation.name, told)) == reason


def _check_fields(reply: Reply, agent: Agent, round_number: int, identifier: str) -> None:
    identity = agent.identity
    expected = (identity.name, identity.declared_users, round_number)
    if (reply.name, reply.declared_users, reply.round) != expected:
        raise FederationError("name, declared size or round of the reply are not the true ones")
    shown = "ledger_head" in agent.policy.egress.fields
    if (reply.head is not None) != shown or (reply.head and not agent.ledger.has(reply.head)):
        raise FederationError("the ledger's head in the reply is not a true one")
    if reply.head and reply.head.sequence < agent.ledger.released_at(identifier):
        # It would hide from the server that this was spent.
        raise FederationError("the ledger's head in the reply is from before the release")


def _check_arrays(arrays: AnyArrays, kind: str, asked: AnyArrays, agent: Agent) -> None:
    found: Shapes = {name: (value.dtype, value.shape) for name, value in arrays.items()}
    float32, uint64 = np.dtype(np.float32), np.dtype(np.uint64)
    expected: Shapes
    if kind == messages.TRAIN:
        precision = np.dtype(np.float16) if are_halved(asked) else float32
        expected = {n: (precision, shape) for n, shape in agent.adapter_shapes().items()}
    elif kind == messages.EVALUATE:
        expected = {"values": (float32, (3,))}
    elif kind == messages.POPULARITY:
        items = len(agent.catalogue)
        expected = {"keys": (uint64, (items,)), "values": (float32, (items,))}
        if not np.array_equal(arrays.get("keys", ()), agent.catalogue.key_hashes):
            raise FederationError("popularity: the keys are not those of the catalogue")
    else:
        keys = arrays.get("keys", np.zeros(0, dtype=np.uint64))
        expected = {
            "keys": (uint64, (keys.size,)),
            "values": (float32, (triangle_size(keys.size),)),
        }
        if keys.size > agent.most_items or not np.isin(keys, asked.get("keys", ())).all():
            raise FederationError("cooccurrence: keys that were not asked for, or too many")
    if found != expected:
        raise FederationError(f"the arrays are {_listed(found)}, expected {_listed(expected)}")
    for name, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise FederationError(f"{name} is not finite")


def _check_masked(arrays: AnyArrays, kind: str, request: Request, agent: Agent) -> None:
    """Nothing but the masked vector of the sum's size and a signature."""
    asked, plan = request.arrays.get("keys", ()), plan_of(request, MECHANISM_OF[kind])
    if kind == messages.TRAIN:
        size = sum(math.prod(shape) for shape in agent.adapter_shapes().values())
    else:
        sizes = {messages.POPULARITY: len(asked), messages.COOCCURRENCE: triangle_size(len(asked))}
        size = sizes.get(kind, 3)
    _expect(arrays, {"masked": (size, plan.word_bytes), "receipt": (SIGNATURE_BYTES,)})


def _check_phase(arrays: AnyArrays, kind: str, asked: AnyArrays, agent: Agent) -> None:
    """Nothing but keys, encrypted shares or shares, as many as there are participants."""
    phase, mechanism = PHASE_OF[kind]
    if phase == KEYS:
        items = arrays.get("items")
        if mechanism == "popularity":
            arrays = {name: value for name, value in arrays.items() if name != "items"}
            if not np.array_equal(() if items is None else items, agent.catalogue.key_hashes):
                raise FederationError("popularity: the items are not those of the catalogue")
        signer, keys = (SECRET_BYTES,), (3, SECRET_BYTES)
        _expect(arrays, {"signer": signer, "keys": keys, "signature": (SIGNATURE_BYTES,)})
    elif phase == SHARES:
        members = len(asked.get("secure.signers", ()))
        expected = {"ciphertexts": (members, SEALED_BYTES), "digests": (members, 2, SECRET_BYTES)}
        _expect(arrays, expected)
    else:
        _expect(arrays, {"shares": (len(asked.get("secure.senders", ())), SECRET_BYTES)})


def _expect(arrays: AnyArrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    found: Shapes = {name: (value.dtype, value.shape) for name, value in arrays.items()}
    expected: Shapes = {name: (np.dtype(np.uint8), shape) for name, shape in shapes.items()}
    if found != expected:
        raise FederationError(f"the arrays are {_listed(found)}, expected {_listed(expected)}")


def _check_ledger(arrays: AnyArrays, identifier: str, mechanism: str, agent: Agent) -> None:
    """The release must be on record, and one that costs must have its intent before it."""
    release = agent.ledger.release_of(identifier)
    if release is None or release.mechanism != mechanism:
        raise FederationError("the ledger has no such release")
    if release.sha256 != arrays_sha256(arrays):
        raise FederationError("the arrays are not those that the ledger has on record")
    if mechanism in MECHANISMS:
        intent = agent.ledger.intent_of(identifier)
        if not intent or release.intent != intent:
            raise FederationError("the ledger has no intent for it")


def _listed(arrays: Shapes) -> str:
    size = sum(math.prod(shape) for _, shape in arrays.values())
    return f"{len(arrays)} arrays of {size} values ({', '.join(sorted(arrays))[:200]})"
