"""The egress guard: a Flower client mod that lets nothing through but the vocabulary of replies.

It trusts neither the ClientApp nor what stands before it: a reply is taken apart, each part is
compared with what may be there, its arrays with the ledger's record of this release, and a new
message is built from what was checked. Anything else is dropped, and the ledger says so.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error

from client.agent import Agent
from client.directory import agent_for
from client.ledger import refused
from shared import messages
from shared.adapters import arrays_sha256
from shared.errors import FederationError, TacitError
from shared.messages import AnyArrays, Reply, pack_reply, unpack_reply, unpack_request
from shared.plan import MECHANISMS
from shared.statistics import triangle_size

LOGGER = logging.getLogger(__name__)

# Flower's own codes end at 5xx; this one says that the organisation refused, and the reason says
# why.
REFUSED = 1000
LONGEST_REASON = 2000
RECORDS = {"reply": ConfigRecord, "arrays": ArrayRecord}
FIELDS = frozenset({"name", "declared_users", "round", "head"})

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
CallNext = Callable[[Message, Context], Message]


def guard(message: Message, context: Context, call_next: CallNext) -> Message:
    """Hand a message on and let only what is expected come back."""
    try:
        reply = call_next(message, context)
    except Exception:
        # Flower would send the exception's text, which may quote data.
        LOGGER.exception("a message could not be answered")
        return _refusal(message, "the organisation could not answer; its own log says why")
    try:
        agent = agent_for(context)
        if reply.has_error():
            return _refusal(message, _recorded(message, str(reply.error.reason), agent))
        return Message(pack_reply(checked(message, reply.content, agent)), reply_to=message)
    except TacitError as error:
        LOGGER.error("egress guard: %s", error)
        return _refusal(message, "the egress guard dropped the reply; the ledger says why")
    except Exception:
        LOGGER.exception("egress guard: a reply could not be checked")
        return _refusal(message, "the egress guard dropped the reply; its own log says why")


def checked(message: Message, content: RecordDict, agent: Agent) -> Reply:
    """The reply in ``content``, if every part of it is expected.

    Raises:
        TacitError: says what was found; the refusal is in the ledger.
    """
    request = unpack_request(message.content, only=("keys",))
    kind = message.metadata.message_type
    name = MECHANISM_OF.get(kind) or PUBLIC.get(kind)
    if name is None:
        raise agent.releases.refuse(
            request.identifier("unknown"), "egress", f"no reply to {kind!r} is known"
        )
    identifier = request.identifier(name)
    try:
        reply = _parsed(content)
        _check_fields(reply, agent, request.round, identifier)
        if kind in MECHANISM_OF:
            _check_arrays(reply.arrays, kind, request.arrays, agent)
        elif reply.arrays:
            raise FederationError(f"a reply to {kind} carries arrays {sorted(reply.arrays)}")
        _check_ledger(reply.arrays, identifier, name if kind in MECHANISM_OF else "none", agent)
    except FederationError as error:
        raise agent.releases.refuse(identifier, "egress", str(error)) from error
    return reply


def _parsed(content: RecordDict) -> Reply:
    found = {name: type(record) for name, record in content.items()}
    if found != RECORDS:
        raise FederationError(f"the reply carries records {sorted(found)}")
    fields = content["reply"]
    if set(fields) != FIELDS:
        raise FederationError(f"the reply carries fields {sorted(fields)}")
    return unpack_reply(content, 0)


def _recorded(message: Message, reason: str, agent: Agent) -> str:
    """A reason that is made of this request's refusals on record and nothing else, or none."""
    kind = message.metadata.message_type
    places = [kind]
    try:
        request = unpack_request(message.content, only=())
        places += [request.identifier(name) for name in (*MECHANISMS, *PUBLIC.values())]
    except TacitError:
        LOGGER.info("the reason of a malformed %s", kind)
    name = agent.identity.name
    known = [refusal for place in places for refusal in agent.ledger.refusals_of(place)]
    told = [refusal for refusal in known if f"[{refusal.rule}] {refusal.sentence}" in reason]
    if str(refused(name, told)) == reason:
        return reason
    return "the organisation refused; its own log says why"


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
        expected = {n: (float32, shape) for n, shape in agent.adapter_shapes().items()}
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


def _check_ledger(arrays: AnyArrays, identifier: str, mechanism: str, agent: Agent) -> None:
    """The release must be on record, and one that costs must have its intent before it."""
    release = agent.ledger.release_of(identifier)
    if release is None or release.mechanism != mechanism:
        raise FederationError("the ledger has no such release")
    if release.sha256 != arrays_sha256(arrays):
        raise FederationError("the arrays are not those that the ledger has on record")
    if mechanism != "none":
        intent = agent.ledger.intent_of(identifier)
        if not intent or release.intent != intent:
            raise FederationError("the ledger has no intent for it")


def _listed(arrays: Shapes) -> str:
    size = sum(math.prod(shape) for _, shape in arrays.values())
    return f"{len(arrays)} arrays of {size} values ({', '.join(sorted(arrays))[:200]})"


def _refusal(message: Message, reason: str) -> Message:
    return Message(Error(REFUSED, reason[:LONGEST_REASON]), reply_to=message)
