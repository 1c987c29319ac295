"""The vocabulary of messages between server and clients, and their records in Flower's terms."""

import dataclasses
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from shared.chain import Anchor, Head, canonical, parse_head
from shared.errors import FederationError, PrivacyError
from shared.plan import PrivacyPlan

JOIN = "query.join"
PLAN = "query.plan"
POPULARITY = "query.popularity"
COOCCURRENCE = "query.cooccurrence"
DELIVER_STATISTICS = "query.deliver_statistics"
TRAIN = "train"
EVALUATE = "evaluate"
DELIVER_ADAPTER = "query.deliver_adapter"

RELIABILITY = "reliability"

# How Flower names the serialisation of numpy arrays.
NUMPY = "numpy.ndarray"

# What numpy raises over hostile headers, which it reads as Python literals.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TokenError,
)

# More than there are people.
MOST_USERS = 10**11

# A run's identifier becomes part of requests' names in ledgers.
RUN_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,100}")
LAST_ROUND = 10_000_000

AnyArrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Request:
    """What the server asks of a client. Everything in it is checked by the client.

    Attributes:
        run: identifier of the run.
        round: 0 for statistics, then 1 and up.
        plan: the privacy plan of the whole run.
        model_sha256: hash over base weights and frozen adapter factors that the update belongs to.
        arrays: named arrays, as the kind of message needs.
        federation: public key of the server, or empty.
        anchor: its signature under the head of the client's last reply, or None.
    """

    run: str
    round: int
    plan: PrivacyPlan | None
    model_sha256: str
    arrays: dict[str, npt.NDArray[Any]]
    federation: str = ""
    anchor: Anchor | None = None

    def identifier(self, kind: str) -> str:
        """Names this request in ledgers; a repeated message has the same one."""
        return f"{self.run}/{self.round}/{kind}"


@dataclass(frozen=True)
class Reply:
    """What a client sends back: noised arrays and fields that its policy declares public.

    Attributes:
        name: of the organisation.
        declared_users: the size it declares.
        round: that it answers.
        arrays: noised, by name.
        node: that it came from, as Flower says; 0 at the client.
        head: newest record of the organisation's ledger, or None where its policy keeps it.
    """

    name: str
    declared_users: int
    round: int
    arrays: dict[str, npt.NDArray[Any]]
    node: int = 0
    head: Head | None = None


def pack_request(request: Request, arrays: ArrayRecord | None = None) -> RecordDict:
    """A request as Flower records.

    Args:
        request: to be sent.
        arrays: its arrays, packed before; requests to many nodes share them.
    """
    fields = ConfigRecord(
        {
            "run": request.run,
            "round": request.round,
            "plan": "" if request.plan is None else request.plan.to_json(),
            "model_sha256": request.model_sha256,
            "federation": request.federation,
            "anchor": "" if request.anchor is None else request.anchor.to_json(),
        }
    )
    packed = pack_arrays(request.arrays) if arrays is None else arrays
    return RecordDict({"request": fields, "arrays": packed})


def unpack_request(content: RecordDict, only: tuple[str, ...] | None = None) -> Request:
    """Parse a request.

    Args:
        content: of the message.
        only: names of the arrays that are needed; None reads all.

    Raises:
        FederationError: if a record or a field is missing or of another type.
    """
    fields = _fields(content, "request")
    plan, anchor = _text(fields, "plan"), _text(fields, "anchor")
    run, round_number = _text(fields, "run"), _number(fields, "round")
    if not RUN_PATTERN.fullmatch(run) or not 0 <= round_number <= LAST_ROUND:
        raise FederationError(f"message: run {run[:100]!r}, round {round_number} name no request")
    return Request(
        run=run,
        round=round_number,
        plan=PrivacyPlan.from_json(plan) if plan else None,
        model_sha256=_text(fields, "model_sha256"),
        arrays=_unpack(content, only),
        federation=_text(fields, "federation"),
        anchor=Anchor.from_json(anchor) if anchor else None,
    )


def pack_reply(reply: Reply) -> RecordDict:
    """A reply as Flower records."""
    fields = ConfigRecord(
        {
            "name": reply.name,
            "declared_users": reply.declared_users,
            "round": reply.round,
            "head": "" if reply.head is None else canonical(dataclasses.asdict(reply.head)),
        }
    )
    return RecordDict({"reply": fields, "arrays": pack_arrays(reply.arrays)})


def unpack_reply(content: RecordDict, node: int) -> Reply:
    """Parse a reply that came from ``node``.

    Raises:
        FederationError: if a record or a field is missing or of another type.
    """
    fields = _fields(content, "reply")
    declared = _number(fields, "declared_users")
    if not 1 <= declared <= MOST_USERS:
        raise FederationError(f"reply: declared_users is {declared}; it must be at least 1")
    name, round_number = _text(fields, "name"), _number(fields, "round")
    text = _text(fields, "head")
    try:
        head = parse_head(text) if text else None
    except PrivacyError as error:
        raise FederationError(f"{name}: {error}") from error
    return Reply(name, declared, round_number, _unpack(content), node, head)


def pack_delivery(
    adapter: Mapping[str, npt.NDArray[np.float32]], reliability: float
) -> dict[str, npt.NDArray[np.float32]]:
    """Arrays of a delivered adapter, with how reliable the server finds it."""
    return dict(adapter) | {RELIABILITY: np.array([reliability], dtype=np.float32)}


def unpack_delivery(
    arrays: AnyArrays,
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """Adapter and reliability of a delivery.

    Raises:
        FederationError: if the reliability is missing or lies outside [0, 1].
    """
    adapter = dict(arrays)
    value = adapter.pop(RELIABILITY, None)
    if value is None or value.shape != (1,) or not 0.0 <= float(value[0]) <= 1.0:
        raise FederationError(f"delivered adapter: {RELIABILITY} is missing or not in [0, 1]")
    return adapter, float(value[0])


def size_bytes(arrays: AnyArrays) -> int:
    """Bytes of the arrays' values, without framing."""
    return sum(value.nbytes for value in arrays.values())


def pack_arrays(arrays: AnyArrays) -> ArrayRecord:
    """Arrays as Flower carries them."""
    return ArrayRecord(
        {name: Array.from_numpy_ndarray(np.ascontiguousarray(v)) for name, v in arrays.items()}
    )


def unpack_arrays(record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """Arrays from Flower's record.

    Raises:
        FederationError: names an array whose bytes cannot be read.
    """
    return {name: _values(name, array) for name, array in record.items()}


def _unpack(
    content: RecordDict, only: tuple[str, ...] | None = None
) -> dict[str, npt.NDArray[Any]]:
    record = content.get("arrays")
    if not isinstance(record, ArrayRecord):
        raise FederationError("message: it carries no record named arrays")
    chosen = record.items() if only is None else [(n, record[n]) for n in only if n in record]
    return {name: _values(name, array) for name, array in chosen}


def _values(name: str, array: Array) -> npt.NDArray[Any]:
    if array.stype != NUMPY:
        raise FederationError(f"array {name}: serialised as {array.stype!r}, expected {NUMPY!r}")
    try:
        # Not numpy.load, which also opens archives and pickles.
        return np.lib.format.read_array(io.BytesIO(array.data), allow_pickle=False)
    except UNREADABLE as error:
        raise FederationError(f"array {name}: its bytes cannot be read ({error})") from error


def _fields(content: RecordDict, name: str) -> ConfigRecord:
    record = content.get(name)
    if not isinstance(record, ConfigRecord):
        raise FederationError(f"message: it carries no record named {name}")
    return record


def _text(fields: ConfigRecord, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise FederationError(f"message: field {name} is missing or no text")
    return value


def _number(fields: ConfigRecord, name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FederationError(f"message: field {name} is missing or no whole number")
    return value
