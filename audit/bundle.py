"""What an auditor is given: an organisation's folder, its ledger file, or a bundle made of it.

A bundle is JSON Lines. The first line is a header that names the organisation's public key, the
ledger, the number of records and the newest countersignature of each server; then comes one line
for each record with its text and its signature. Every line is canonical JSON (RFC 8785). The header
proves nothing by itself: the records are signed, and so are the countersignatures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from shared.chain import (
    Anchor,
    Fault,
    Record,
    Sealed,
    canonical,
    now,
    read_filed,
    sha256_text,
)
from shared.errors import PrivacyError
from shared.files import atomic_path

VERSION = 1
SQLITE_MAGIC = b"SQLite format 3\0"
LONGEST_LINE = 1_000_000
MOST_LINES = 1_000_001
HEADER = {"tacit_bundle", "public_key", "ledger", "records", "exported_at", "anchors"}


@dataclass(frozen=True)
class Evidence:
    """A ledger as it was found.

    Attributes:
        path: of the ledger file or the bundle.
        stored: records in order.
        anchors: newest countersignature of each server, as kept beside the ledger.
        faults: found while reading: what the chain of the records itself cannot show.
    """

    path: Path
    stored: Sequence[Sealed]
    anchors: Sequence[Anchor]
    faults: Sequence[Fault]


def read_evidence(path: Path) -> Evidence:
    """Read a folder, a ledger or a bundle, without writing to it.

    Raises:
        PrivacyError: if it is none of them, or larger than any real one.
    """
    file = path / "ledger.sqlite" if path.is_dir() else path
    if not file.is_file():
        raise PrivacyError(
            f"{file}: no such ledger; give an organisation's folder, its ledger.sqlite or a bundle"
        )
    with file.open("rb") as opened:
        if opened.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC:
            return _read_ledger(file)
        opened.seek(0)
        return _read_bundle(file, opened)


def write_bundle(evidence: Evidence, out: Path) -> None:
    """Write a bundle that an outsider can verify; a damaged ledger is exported as it is.

    Raises:
        PrivacyError: if ``out`` exists, or a record is longer than a bundle may carry.
    """
    if out.exists():
        raise PrivacyError(f"{out}: exists already; choose another name for the bundle")
    if not evidence.stored:
        raise PrivacyError(f"{evidence.path}: has no record; there is nothing to export")
    header = {
        "tacit_bundle": VERSION,
        "public_key": opening_key(evidence.stored[0]),
        "ledger": evidence.stored[0].sha256,
        "records": len(evidence.stored),
        "exported_at": now(),
        "anchors": {anchor.server_key: anchor.to_json() for anchor in evidence.anchors},
    }
    with atomic_path(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(canonical(header) + "\n")
        for number, sealed in enumerate(evidence.stored, start=1):
            line = canonical({"record": sealed.text, "signature": sealed.signature})
            if len(line.encode()) > LONGEST_LINE:
                raise PrivacyError(
                    f"{evidence.path}: record {number} is longer than the {LONGEST_LINE} bytes "
                    "that a bundle carries a record in; it cannot be exported"
                )
            file.write(line + "\n")


def opening_key(first: Sealed) -> str:
    """Public key that a ledger's first record names; empty if it cannot be read."""
    try:
        return str(Record.parse(first.text).body.get("public_key"))
    except PrivacyError:
        return ""


def read_lines(path: Path, file: BinaryIO) -> list[bytes]:
    """Lines of a file from outside, unless it is larger than any real one.

    Raises:
        PrivacyError: if a line has more than ``LONGEST_LINE`` bytes, or there are too many.
    """
    lines: list[bytes] = []
    while line := file.readline(LONGEST_LINE + 2):
        if len(line) > LONGEST_LINE + 1:
            raise PrivacyError(f"{path}: line {len(lines) + 1} is longer than {LONGEST_LINE} bytes")
        lines.append(line)
        if len(lines) > MOST_LINES:
            raise PrivacyError(f"{path}: has more than {MOST_LINES} lines")
    return lines


def canonical_line(line: bytes) -> dict[str, Any]:
    """The object of a line.

    Raises:
        ValueError: if the line is no object in canonical form with a line feed at its end.
    """
    try:
        value = json.loads(line.decode())
        if not isinstance(value, dict) or canonical(value).encode() + b"\n" != line:
            raise ValueError("it is no canonical JSON object")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _read_ledger(path: Path) -> Evidence:
    stored, faults = read_filed(path)
    anchors, more = _anchors_beside(path.with_name("anchors.json"))
    return Evidence(path, stored, anchors, [*faults, *more])


def _anchors_beside(path: Path) -> tuple[list[Anchor], list[Fault]]:
    if not path.exists():
        return [], []
    try:
        return _anchors(json.loads(path.read_bytes()), path.name)
    except (OSError, ValueError, RecursionError) as error:
        return [], [Fault(0, f"{path.name} beside the ledger cannot be read ({error})")]


def _anchors(value: Any, where: str) -> tuple[list[Anchor], list[Fault]]:
    if not isinstance(value, Mapping):
        return [], [Fault(0, f"{where}: its countersignatures are no table")]
    anchors, faults = [], []
    for server, text in value.items():
        try:
            anchor = Anchor.from_json(text)
            if anchor.server_key != server:
                raise PrivacyError("it is filed under another server's key")
            if anchor.sequence < 1:
                raise PrivacyError(f"it is for a record numbered {anchor.sequence}")
            anchors.append(anchor)
        except PrivacyError as error:
            sentence = f"{where}: the countersignature of server {server[:12]}: {error}"
            faults.append(Fault(0, sentence))
    return anchors, faults


def _read_bundle(path: Path, file: BinaryIO) -> Evidence:
    lines = read_lines(path, file)
    header = _header(path, lines[0] if lines else b"")
    anchors, faults = _anchors(header["anchors"], "the bundle's header")
    stored = []
    for number, line in enumerate(lines[1:], start=1):
        try:
            value = canonical_line(line)
            if set(value) != {"record", "signature"}:
                raise ValueError(f"its fields are {sorted(value)}")
            text, signature = value["record"], value["signature"]
            if not (isinstance(text, str) and isinstance(signature, str)):
                raise ValueError("a field is no text")
        except ValueError as error:
            faults.append(Fault(number, f"its line in the bundle cannot be read ({error})"))
            text, signature = line.decode(errors="replace"), ""
        stored.append(Sealed(text, sha256_text(text), signature))
    if header["records"] != len(stored):
        sentence = f"the header says {header['records']} records, the bundle holds {len(stored)}"
        faults.append(Fault(0, sentence))
    if stored and header["ledger"] != stored[0].sha256:
        faults.append(Fault(1, "is not the opening record that the bundle's header names"))
    if stored and header["public_key"] != opening_key(stored[0]):
        faults.append(Fault(1, "was opened with another key than the bundle's header names"))
    return Evidence(path, stored, anchors, faults)


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = canonical_line(line)
    except ValueError as error:
        raise PrivacyError(f"{path}: neither a ledger nor a bundle ({error})") from error
    if set(header) != HEADER or header["tacit_bundle"] != VERSION:
        raise PrivacyError(
            f"{path}: its first line is no header of a bundle of version {VERSION}; export it anew"
        )
    return header
