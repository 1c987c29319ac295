"""The vocabulary of messages between server and clients: requests, signed, and replies."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.chain import Anchor, Head, canonical, parse_head
from shared.errors import FederationError, PrivacyError
from shared.keys import SigningKey, verify_new
from shared.plan import PrivacyPlan
from shared.stages import stage
from shared.wire import CALLS as CALLS
from shared.wire import COOCCURRENCE as COOCCURRENCE
from shared.wire import DELIVER_ADAPTER as DELIVER_ADAPTER
from shared.wire import DELIVER_STATISTICS as DELIVER_STATISTICS
from shared.wire import EVALUATE as EVALUATE
from shared.wire import JOIN as JOIN
from shared.wire import PLAN as PLAN
from shared.wire import POPULARITY as POPULARITY
from shared.wire import TRAIN as TRAIN
from shared.wire import (
    AnyArrays,
    Fields,
    Parcel,
    arrays_sha256,
    from_records,
    pack_arrays,
    to_records,
)

KINDS = tuple(kind for kinds in CALLS.values() for kind in kinds)

# Names of the arrays in a request that belong to a secure sum begin so.
SECURE = "secure."
RELIABILITY = "reliability"

REQUEST_DOMAIN = b"tacit request 1\n"

# More than there are people.
MOST_USERS = 10**11
LAST_ROUND = 10_000_000
LAST_ATTEMPT = 1000
# A plan with a hundred digits a number, settings, an anchor or a head: all are far shorter.
LONGEST_TEXT = 100_000


class _Fields(BaseModel):
    """Fields of a message: these and no others, of these types, of bounded length."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, str_max_length=LONGEST_TEXT)

    @classmethod
    def parse(cls, fields: Fields) -> Self:
        """The fields, or a sentence that does not quote them.

        Raises:
            FederationError: names every field that is wrong.
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            wrong = [
                f"field {'.'.join(map(str, e['loc']))[:100]}: {e['msg'][0].lower()}{e['msg'][1:]}"
                for e in error.errors(include_input=False, include_url=False)
            ]
            raise FederationError(f"message: {'; '.join(wrong[:10])}") from error


class RequestFields(_Fields):
    """Fields of a request; see ``Request``."""

    # A run's identifier becomes part of requests' names in ledgers, and the name of a folder.
    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")]
    round: Annotated[int, Field(ge=0, le=LAST_ROUND)]
    attempt: Annotated[int, Field(ge=0, le=LAST_ATTEMPT)]
    plan: str
    model_sha256: Annotated[str, Field(max_length=100)]
    federation: Annotated[str, Field(max_length=100)]
    anchor: str
    settings: str
    signature: Annotated[str, Field(max_length=200)]


class ReplyFields(_Fields):
    """Fields of a reply; see ``Reply``."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    declared_users: Annotated[int, Field(ge=1, le=MOST_USERS)]
    round: Annotated[int, Field(ge=0, le=LAST_ROUND)]
    head: str


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
        settings: public settings of the run (``shared.config.shared_settings``), as JSON, or empty.
        signature: of the server's key, over everything else and the kind of the message.
        attempt: at a secure sum; a further one has keys of its own, and counts again if it leaves.
    """

    run: str
    round: int
    plan: PrivacyPlan | None
    model_sha256: str
    arrays: dict[str, npt.NDArray[Any]]
    federation: str = ""
    anchor: Anchor | None = None
    settings: str = ""
    signature: str = ""
    attempt: int = 0

    @functools.cached_property
    def arrays_sha256(self) -> str:
        """Hash of the arrays; nobody changes them in place."""
        return arrays_sha256(self.arrays)

    @property
    def payload(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays without those of a secure sum."""
        return {n: v for n, v in self.arrays.items() if not n.startswith(SECURE)}

    @functools.cached_property
    def payload_sha256(self) -> str:
        """Hash of the payload."""
        payload = self.payload
        return self.arrays_sha256 if len(payload) == len(self.arrays) else arrays_sha256(payload)

    def identifier(self, kind: str) -> str:
        """Names this request in ledgers; a repeated message has the same one."""
        again = f"/{self.attempt}" if self.attempt else ""
        return f"{self.run}/{self.round}/{kind}{again}"


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


def signed(kind: str, request: Request, key: SigningKey, arrays_hash: str = "") -> Request:
    """The request under a server's key.

    Args:
        kind: of the message that carries it.
        request: to be sent.
        key: of the server.
        arrays_hash: ``arrays_sha256`` of its arrays where it is known.
    """
    with stage("signatures"):
        named = dataclasses.replace(request, federation=key.public)
        hashed = arrays_hash or named.arrays_sha256
        return dataclasses.replace(named, signature=key.sign(_signed_bytes(kind, named, hashed)))


def genuine(kind: str, request: Request) -> bool:
    """Whether a request carries the signature of the server that it names."""
    with stage("signatures"):
        message = _signed_bytes(kind, request, request.arrays_sha256)
        return verify_new(request.federation, message, request.signature)


def _signed_bytes(kind: str, request: Request, arrays_hash: str) -> bytes:
    fields = {k: v for k, v in _fields_of(request).items() if k != "signature"}
    return REQUEST_DOMAIN + canonical({**fields, "kind": kind, "arrays": arrays_hash}).encode()


def _fields_of(request: Request) -> dict[str, str | int]:
    return {
        "run": request.run,
        "round": request.round,
        "attempt": request.attempt,
        "plan": "" if request.plan is None else _plan_text(request.plan),
        "model_sha256": request.model_sha256,
        "federation": request.federation,
        "anchor": "" if request.anchor is None else _anchor_text(request.anchor),
        "settings": request.settings,
        "signature": request.signature,
    }


# A run has one plan, and every request and reply of it carries it.
_plan = functools.lru_cache(maxsize=16)(PrivacyPlan.from_json)
_plan_text = functools.lru_cache(maxsize=16)(PrivacyPlan.to_json)
_anchor_text = functools.lru_cache(maxsize=16)(Anchor.to_json)


def pack_request(request: Request, arrays: ArrayRecord | None = None) -> RecordDict:
    """A request as Flower records.

    Args:
        request: to be sent.
        arrays: its arrays, packed before; requests to many nodes share them.
    """
    fields = ConfigRecord(dict(_fields_of(request)))
    packed = pack_arrays(request.arrays) if arrays is None else arrays
    return RecordDict({"request": fields, "arrays": packed})


def parse_request(parcel: Parcel) -> Request:
    """The request in a parcel.

    Raises:
        FederationError: if a field is missing, unknown, or of another type.
        PrivacyError: if its plan or anchor is none.
    """
    with stage("serialise"):
        fields = RequestFields.parse(parcel.fields)
        return Request(
            run=fields.run,
            round=fields.round,
            attempt=fields.attempt,
            plan=_plan(fields.plan) if fields.plan else None,
            model_sha256=fields.model_sha256,
            arrays=dict(parcel.arrays),
            federation=fields.federation,
            anchor=Anchor.from_json(fields.anchor) if fields.anchor else None,
            settings=fields.settings,
            signature=fields.signature,
        )


def reply_parcel(reply: Reply) -> Parcel:
    """A reply as it leaves."""
    fields: dict[str, str | int] = {
        "name": reply.name,
        "declared_users": reply.declared_users,
        "round": reply.round,
        "head": "" if reply.head is None else canonical(vars(reply.head)),
    }
    return Parcel(fields, reply.arrays)


def pack_reply(reply: Reply) -> RecordDict:
    """A reply as Flower records."""
    return to_records(reply_parcel(reply), "reply")


def unpack_reply(content: RecordDict, node: int) -> Reply:
    """Parse a reply that came from ``node``.

    Raises:
        FederationError: if a record or a field is missing, unknown, or of another type.
    """
    parcel = from_records(content, "reply")
    fields = ReplyFields.parse(parcel.fields)
    try:
        head = parse_head(fields.head) if fields.head else None
    except PrivacyError as error:
        raise FederationError(f"{fields.name}: {error}") from error
    return Reply(fields.name, fields.declared_users, fields.round, dict(parcel.arrays), node, head)


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
