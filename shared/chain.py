"""Records of a ledger as bytes: canonical, chained by SHA-256, signed; heads and their anchors.

A record is canonical JSON (RFC 8785) that names the hash of the one before. Its own hash is signed
with the organisation's Ed25519 key. The *head* is the newest record's place and hash; a server that
signs a head makes an *anchor*: from then on nobody can take that record back unseen.
"""

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import rfc8785

from shared.errors import PrivacyError
from shared.keys import SigningKey, verify

VERSION = 1
NOTHING_BEFORE = "0" * 64
RECORD_DOMAIN = b"tacit ledger record 1\n"
ANCHOR_DOMAIN = b"tacit ledger anchor 1\n"
# Beyond it RFC 8785 has no form for a whole number.
LARGEST_INTEGER = 2**53 - 1
_PLAIN_JSON = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
FIELDS = frozenset({"version", "sequence", "previous", "at", "kind", "request", "body"})


@dataclass(frozen=True)
class Sealed:
    """One stored record.

    Attributes:
        text: its canonical JSON.
        sha256: hash over ``text`` in UTF-8, hexadecimal.
        signature: of the hash, by the organisation's key, hexadecimal.
    """

    text: str
    sha256: str
    signature: str


@dataclass(frozen=True)
class Record:
    """What a record says.

    Attributes:
        sequence: 1 for the first, then one more each.
        previous: hash of the record before; zeros for the first.
        at: time of writing, ISO 8601 in UTC, by the organisation's clock.
        kind: ``open``, ``policy``, ``intent``, ``release``, ``refusal`` or ``anchor``.
        request: the message that it belongs to, or None.
        body: by kind; see ``shared.entries``.
    """

    sequence: int
    previous: str
    at: str
    kind: str
    request: str | None
    body: Mapping[str, Any]

    def text(self) -> str:
        """Canonical JSON."""
        return canonical({"version": VERSION, **vars(self)})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a record back.

        Raises:
            PrivacyError: if it is not one, or not in its canonical form.
        """
        try:
            value = json.loads(text)
            if set(value) != FIELDS or value.pop("version") != VERSION:
                raise ValueError(f"its fields are {sorted(value)}")
            record = cls(**value)
            if record.text() != text:
                raise ValueError("its form is not the canonical one")
            if type(record.sequence) is not int or not isinstance(record.body, dict):
                raise ValueError("a field has another type")
            request = "" if record.request is None else record.request
            for field in (record.previous, record.at, record.kind, request):
                if type(field) is not str:
                    raise ValueError("a field has another type")
        except (ValueError, TypeError, RecursionError, rfc8785.CanonicalizationError) as error:
            raise PrivacyError(f"not a ledger record ({error})") from error
        return record


@dataclass(frozen=True)
class Head:
    """The newest record of a ledger; what leaves with each reply.

    Attributes:
        ledger: hash of the ledger's first record, which names it.
        key: the organisation's public key.
        sequence, sha256: of the newest record.
        signature: of that hash.
    """

    ledger: str
    key: str
    sequence: int
    sha256: str
    signature: str

    def genuine(self) -> bool:
        """Whether the organisation's key made the signature."""
        return verify(self.key, RECORD_DOMAIN + self.sha256.encode(), self.signature)


@dataclass(frozen=True)
class Anchor:
    """A server's countersignature of a head.

    Attributes:
        ledger, sequence, sha256: of the head.
        run: in which the head came.
        at: time by the server's clock.
        server_key: public key of the server.
        signature: over the other fields.
    """

    ledger: str
    sequence: int
    sha256: str
    run: str
    at: str
    server_key: str
    signature: str

    def genuine(self) -> bool:
        """Whether ``server_key`` made the signature."""
        return verify(self.server_key, _anchored(self), self.signature)

    def to_json(self) -> str:
        """Canonical JSON; what messages and files carry."""
        return canonical(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read an anchor back.

        Raises:
            PrivacyError: if it is none, or its signature does not fit.
        """
        anchor: Self = _parse(cls, text, "anchor")
        if not anchor.genuine():
            raise PrivacyError("an anchor's signature does not fit its server's key")
        return anchor


@dataclass(frozen=True)
class Fault:
    """Something wrong with a ledger.

    Attributes:
        sequence: number of the record; 0 for the ledger as a whole.
        sentence: what.
    """

    sequence: int
    sentence: str


def canonical(value: Any) -> str:
    """JSON by RFC 8785: equal values give equal bytes."""
    if _plain(value):
        # Here the standard library writes the same, several times as fast; a round needs dozens.
        return _PLAIN_JSON.encode(value)
    return rfc8785.dumps(value).decode()


def _plain(value: Any) -> bool:
    """Whether the standard library's JSON is the canonical one: ASCII, and no decimal numbers.

    Beyond ASCII the order of keys may differ; numbers have a form of their own.
    """
    rest = [value]
    # A loop: hostile records are as deep as they like.
    while rest:
        part = rest.pop()
        kind = type(part)
        if kind is str:
            plain = part.isascii()
        elif kind is dict:
            plain = all(type(key) is str and key.isascii() for key in part)
            rest.extend(part.values())
        elif kind is list or kind is tuple:
            plain = True
            rest.extend(part)
        elif kind is int:
            plain = -LARGEST_INTEGER <= part <= LARGEST_INTEGER
        else:
            plain = part is None or kind is bool
        if not plain:
            return False
    return True


def sha256_text(text: str) -> str:
    """SHA-256 over UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """The time as records carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seal(record: Record, key: SigningKey) -> Sealed:
    """Hash and sign a record."""
    text = record.text()
    digest = sha256_text(text)
    return Sealed(text, digest, key.sign(RECORD_DOMAIN + digest.encode()))


def countersign(head: Head, run: str, key: SigningKey) -> Anchor:
    """A server's signature under a head.

    Raises:
        PrivacyError: if the organisation's own signature does not fit.
    """
    if not head.genuine():
        raise PrivacyError(f"the head of ledger {head.ledger[:12]} is not signed by its key")
    unsigned = Anchor(head.ledger, head.sequence, head.sha256, run, now(), key.public, "")
    return dataclasses.replace(unsigned, signature=key.sign(_anchored(unsigned)))


def read_sealed(path: Path) -> list[Sealed]:
    """All records of a ledger file, in order, without writing to it.

    Raises:
        PrivacyError: if the file is missing or no ledger.
    """
    return read_filed(path)[0]


def read_filed(path: Path) -> tuple[list[Sealed], list[Fault]]:
    """``filed_records`` of a ledger file, without writing to it.

    Raises:
        PrivacyError: if the file is missing or no ledger.
    """
    if not path.exists():
        raise PrivacyError(f"{path}: no such ledger")
    # Without a write-ahead log nobody has the file open, and SQLite need not make one to read it.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True)) as connection:
            # Bytes that are no text then show as another text instead of an error.
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            return filed_records(connection)
    except sqlite3.Error as error:
        raise PrivacyError(f"{path}: cannot be read as a ledger ({error})") from error


def filed_records(connection: sqlite3.Connection) -> tuple[list[Sealed], list[Fault]]:
    """All records of an open ledger in order, and those that are not filed as what they are.

    The columns by which a client looks records up are not signed: they must say the same as the
    record.
    """
    stored, faults = [], []
    rows = connection.execute(
        "SELECT sequence, kind, request, record, sha256, signature FROM records ORDER BY sequence"
    )
    for place, (*filed, text, digest, signature) in enumerate(rows, start=1):
        sealed = Sealed(str(text), str(digest), str(signature))
        stored.append(sealed)
        if not _filed_truly(sealed, filed):
            sentence = "is filed under another number, kind or request than its text names"
            faults.append(Fault(place, sentence))
    return stored, faults


def _filed_truly(sealed: Sealed, filed: Sequence[Any]) -> bool:
    # Text that is no record at all counts as filed truly: the chain's own check finds it.
    try:
        value = json.loads(sealed.text)
        named = [value["sequence"], value["kind"], value["request"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return True
    return list(filed) == named


def chain_faults(stored: Sequence[Sealed], key: str | None = None) -> list[Fault]:
    """Everything wrong with the form, hashes, order and signatures of a chain.

    Args:
        stored: records in order.
        key: public key that must have signed; None takes the one that the first record names, so
            that only a change by somebody without that key is found.
    """
    faults: list[Fault] = []
    previous, expected = NOTHING_BEFORE, 1
    if not stored:
        return [Fault(0, "the ledger is empty: it has no opening record")]
    for number, sealed in enumerate(stored, start=1):
        if sha256_text(sealed.text) != sealed.sha256:
            faults.append(Fault(number, "its text does not have the hash stored beside it"))
        try:
            record = Record.parse(sealed.text)
        except PrivacyError as error:
            faults.append(Fault(number, str(error)))
            previous, expected = sealed.sha256, expected + 1
            continue
        if record.sequence != expected:
            faults.append(Fault(number, f"it is numbered {record.sequence}"))
        if record.previous != previous:
            faults.append(
                Fault(number, "it does not name the record before it: records are missing or moved")
            )
        if (number == 1) != (record.kind == "open"):
            faults.append(Fault(number, "a ledger opens once, with its first record"))
        if number == 1:
            named = record.body.get("public_key")
            if key is not None and named != key:
                faults.append(Fault(number, "it was opened with another key than the one given"))
            key = key or str(named)
        if not verify(key or "", RECORD_DOMAIN + sealed.sha256.encode(), sealed.signature):
            faults.append(Fault(number, "its signature is not by the organisation's key"))
        # What was deleted is reported once, not for every record after it.
        previous, expected = sealed.sha256, record.sequence + 1
    return faults


def head_faults(
    stored: Sequence[Sealed], heads: Iterable[Head | Anchor], strict: bool = False
) -> list[Fault]:
    """Records that somebody outside has seen and that are not, or no longer, in the ledger.

    Args:
        stored: records in order.
        heads: what was seen.
        strict: heads of another ledger are faults too; otherwise they are passed over.
    """
    faults = []
    for head in heads:
        if not stored or head.ledger != stored[0].sha256:
            if strict:
                faults.append(Fault(0, "a server has seen another ledger in its place"))
            continue
        if not 1 <= head.sequence <= len(stored):
            faults.append(
                Fault(
                    head.sequence,
                    f"was seen outside, but the ledger ends at {len(stored)}: its end was deleted "
                    "or rolled back",
                )
            )
        elif stored[head.sequence - 1].sha256 != head.sha256:
            faults.append(Fault(head.sequence, "is another record than the one seen outside"))
    return faults


def _anchored(anchor: Anchor) -> bytes:
    fields = {name: value for name, value in vars(anchor).items() if name != "signature"}
    return ANCHOR_DOMAIN + canonical(fields).encode()


def read_anchors(path: Path) -> dict[str, Anchor]:
    """The newest anchor of each server, by its key, as kept beside a ledger.

    Raises:
        PrivacyError: if the file cannot be read, or an anchor's signature does not fit.
    """
    try:
        texts: dict[str, str] = json.loads(path.read_text())
        return {server: Anchor.from_json(text) for server, text in texts.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise PrivacyError(f"{path}: cannot be read as anchors ({error})") from error


def parse_head(text: str) -> Head:
    """A head from its canonical JSON.

    Raises:
        PrivacyError: if it is none.
    """
    head: Head = _parse(Head, text, "head")
    return head


def _parse(cls: type[Any], text: str, name: str) -> Any:
    try:
        value = json.loads(text)
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        if set(value) != set(fields):
            raise ValueError(f"its fields are {sorted(value)}")
        for field, kind in fields.items():
            if type(value[field]) is not kind:
                raise ValueError(f"{field} has another type")
        if canonical(value) != text:
            raise ValueError("its form is not the canonical one")
        return cls(**value)
    except (ValueError, TypeError, RecursionError) as error:
        raise PrivacyError(f"not a ledger {name} ({error})") from error
