"""The federation's view of its ledgers: heads that a server has seen, and whether they agree."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.bundle import canonical_line, read_lines
from shared.chain import Anchor, Fault, Head, Sealed, canonical, parse_head
from shared.errors import PrivacyError

if TYPE_CHECKING:
    from audit.verify import Verification

FIELDS = {"anchor", "head", "name", "run", "declared_users"}


@dataclass(frozen=True)
class Sighting:
    """A head that came with a reply, and the server's signature under it.

    Attributes:
        line: of the file.
        name, declared_users: that the reply gave.
        run: in which it came.
        head: signed by the organisation.
        anchor: signed by the server.
    """

    line: int
    name: str
    declared_users: int
    run: str
    head: Head
    anchor: Anchor


@dataclass(frozen=True)
class Heads:
    """A server's ``heads.jsonl``.

    Attributes:
        path: of the file.
        sightings: in the order in which they were written.
        faults: lines that cannot be read or whose signatures do not fit, as sentences.
    """

    path: Path
    sightings: Sequence[Sighting]
    faults: Sequence[Fault]

    def anchors_of(self, stored: Sequence[Sealed]) -> list[Anchor]:
        """The server's signatures under heads of a ledger that are in it."""
        ledger = stored[0].sha256 if stored else ""
        return [
            seen.anchor
            for seen in self.sightings
            if seen.head.ledger == ledger
            and seen.head.sequence <= len(stored)
            and stored[seen.head.sequence - 1].sha256 == seen.head.sha256
        ]

    def newest_of_others(self, ledger: str, key: str, name: str) -> list[Sighting]:
        """Newest sighting of every other ledger under the same key or the same name."""
        newest: dict[str, Sighting] = {}
        for seen in self.sightings:
            if seen.head.ledger != ledger and (seen.head.key == key or seen.name == name):
                newest[seen.head.ledger] = seen
        return list(newest.values())

    def foreign(self, server_key: str) -> list[Fault]:
        """Lines that another server has signed."""
        return [
            Fault(0, f"{self.path.name} line {seen.line}: was signed by another server")
            for seen in self.sightings
            if seen.anchor.server_key != server_key
        ]


@dataclass(frozen=True)
class Member:
    """One ledger as the server has seen it.

    Attributes:
        name, declared_users: as last given.
        ledger, key: of the organisation.
        sequence, at: of the newest head, by the server's clock.
        replies: that carried a head.
        runs: in which they came.
        verification: of the bundle that was given for it, or None.
        faults: contradictions between what was seen; their ``sequence`` is a record's number.
    """

    name: str
    declared_users: int
    ledger: str
    key: str
    sequence: int
    at: str
    replies: int
    runs: int
    verification: "Verification | None"
    faults: Sequence[Fault]

    def as_json(self) -> dict[str, Any]:
        """For machines, without the verification."""
        value = dataclasses.asdict(dataclasses.replace(self, verification=None))
        del value["verification"]
        return value


def read_heads(path: Path) -> Heads:
    """Read the heads that a server has seen, and check every signature.

    Args:
        path: of ``heads.jsonl``, or of a run folder, whose server keeps it in ``server/``.

    Raises:
        PrivacyError: if there is no such file, or it is larger than any real one.
    """
    file = path / "server" / "heads.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise PrivacyError(f"{file}: no such file; give a server's heads.jsonl or a run folder")
    sightings, faults = [], []
    with file.open("rb") as opened:
        lines = read_lines(file, opened)
    for number, line in enumerate(lines, start=1):
        try:
            sightings.append(_sighting(number, canonical_line(line)))
        except (ValueError, PrivacyError) as error:
            faults.append(Fault(0, f"{file.name} line {number}: {error}"))
    return Heads(file, sightings, faults)


def members(heads: Heads, verifications: Sequence["Verification"] = ()) -> list[Member]:
    """Every ledger that the server has seen, in order of name.

    Args:
        heads: of the server.
        verifications: of bundles, each made against the same heads.
    """
    by_ledger: dict[str, list[Sighting]] = {}
    for seen in heads.sightings:
        by_ledger.setdefault(seen.head.ledger, []).append(seen)
    verified = {v.ledger: v for v in verifications}
    found = []
    for ledger, sightings in by_ledger.items():
        last = sightings[-1]
        newest = max(sightings, key=lambda seen: seen.head.sequence)
        others = heads.newest_of_others(ledger, last.head.key, last.name)
        second = [
            Fault(0, f"{last.name!r} is known by another ledger too, {other.head.ledger[:12]}")
            for other in others
        ]
        found.append(
            Member(
                name=last.name,
                declared_users=last.declared_users,
                ledger=ledger,
                key=last.head.key,
                sequence=newest.head.sequence,
                at=newest.anchor.at,
                replies=len(sightings),
                runs=len({seen.run for seen in sightings}),
                verification=verified.get(ledger),
                faults=[*_contradictions(sightings), *second],
            )
        )
    return sorted(found, key=lambda member: member.name)


def _contradictions(sightings: Sequence[Sighting]) -> Iterator[Fault]:
    hashes: dict[int, str] = {}
    newest, key = 0, sightings[0].head.key
    for seen in sightings:
        head = seen.head
        known = hashes.setdefault(head.sequence, head.sha256)
        if known != head.sha256:
            yield Fault(
                head.sequence, f"line {seen.line}: was seen with another hash before: two ledgers"
            )
        if head.sequence < newest:
            yield Fault(
                head.sequence,
                f"line {seen.line}: was the newest after record {newest} had been seen: the ledger "
                "was rolled back",
            )
        if head.key != key:
            yield Fault(head.sequence, f"line {seen.line}: is signed by another key than before")
        newest = max(newest, head.sequence)


def _sighting(number: int, value: dict[str, Any]) -> Sighting:
    if set(value) != FIELDS:
        raise ValueError(f"its fields are {sorted(value)}")
    head = parse_head(canonical(value["head"]))
    anchor = Anchor.from_json(canonical(value["anchor"]))
    name, run, declared = value["name"], value["run"], value["declared_users"]
    if type(name) is not str or type(run) is not str or type(declared) is not int:
        raise ValueError("a field has another type")
    if head.sequence < 1:
        raise ValueError(f"its head is numbered {head.sequence}")
    if not head.genuine():
        raise ValueError("its head is not signed by the organisation's key")
    seen = (anchor.ledger, anchor.sequence, anchor.sha256, anchor.run)
    if seen != (head.ledger, head.sequence, head.sha256, run):
        raise ValueError("the server has signed another head than the one beside it")
    return Sighting(number, name, declared, run, head, anchor)
