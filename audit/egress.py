"""Everything that ever left an organisation as a table for spreadsheets."""

import csv
from pathlib import Path

from shared.departures import Egress
from shared.files import atomic_path

COLUMNS = (
    "record",
    "time",
    "request",
    "mechanism",
    "arrays",
    "public fields",
    "bytes",
    "sha256",
    "sent again",
)


def write_csv(egress: Egress, path: Path) -> None:
    """Write the departures as CSV, one a line."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for departure in egress.departures:
            release = departure.release
            writer.writerow(
                [
                    departure.record,
                    departure.at,
                    _inert(departure.request),
                    _inert(departure.mechanism),
                    _inert("; ".join(release.arrays)),
                    _inert("; ".join(release.fields)),
                    release.size_bytes,
                    _inert(release.sha256),
                    "yes" if departure.again else "",
                ]
            )


def _inert(cell: str) -> str:
    # A spreadsheet runs a cell that begins so as a formula, and a request's name is the server's.
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
