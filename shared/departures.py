"""Everything that ever left an organisation, and everything that was refused, by its ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.chain import Record, Sealed
from shared.entries import Refusal, Release, parse_entry
from shared.errors import PrivacyError


@dataclass(frozen=True)
class Departure:
    """One release.

    Attributes:
        record: its place in the ledger.
        at: time, ISO 8601 in UTC.
        request: that it answered.
        release: what left.
        again: whether the same answer left before.
    """

    record: int
    at: str
    request: str
    release: Release
    again: bool

    @property
    def mechanism(self) -> str:
        """The mechanism that made it, in words."""
        return "public fields" if self.release.mechanism == "none" else self.release.mechanism


@dataclass(frozen=True)
class Denial:
    """One refusal, at its place in the ledger."""

    record: int
    at: str
    request: str
    refusal: Refusal


@dataclass(frozen=True)
class Total:
    """What left through one mechanism: how often, and how many bytes of arrays."""

    mechanism: str
    releases: int
    size_bytes: int


@dataclass(frozen=True)
class Egress:
    """What left and what did not.

    Attributes:
        departures, denials: in order.
        unread: places of records that cannot be read, and may hide a release.
    """

    departures: Sequence[Departure]
    denials: Sequence[Denial]
    unread: Sequence[int]

    def totals(self) -> list[Total]:
        """By mechanism, in order of name."""
        names = sorted({departure.mechanism for departure in self.departures})
        return [
            Total(name, len(of_it), sum(d.release.size_bytes for d in of_it))
            for name in names
            for of_it in [[d for d in self.departures if d.mechanism == name]]
        ]


def list_egress(stored: Sequence[Sealed]) -> Egress:
    """Releases and refusals of a ledger.

    Args:
        stored: records in order.
    """
    departures: list[Departure] = []
    denials: list[Denial] = []
    unread: list[int] = []
    sent: set[tuple[str, str]] = set()
    for place, sealed in enumerate(stored, start=1):
        try:
            record = Record.parse(sealed.text)
            entry = parse_entry(record)
        except PrivacyError:
            unread.append(place)
            continue
        request = str(record.request)
        if isinstance(entry, Release):
            again = entry.mechanism != "none" and (request, entry.sha256) in sent
            sent.add((request, entry.sha256))
            departures.append(Departure(place, record.at, request, entry, again))
        elif isinstance(entry, Refusal):
            denials.append(Denial(place, record.at, request, entry))
    return Egress(departures, denials, unread)
