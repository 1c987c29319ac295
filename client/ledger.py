"""The privacy ledger of one organisation: what was spent is on disk before anything can leave.

An append-only SQLite table. The cost of a release counts from its ``intent``, which is synced to
disk before the noisy result exists; a crash in between counts as spent.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from shared.accounting import Event, Events, contained, epsilon_checked, merged
from shared.errors import PrivacyError
from shared.plan import Adjacency, Mechanism, Noise, PrivacyPlan

SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    request TEXT,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_intent_per_request ON entries (kind, request);
CREATE TRIGGER IF NOT EXISTS entries_keep_their_values BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_are_not_replaced BEFORE INSERT ON entries
    WHEN EXISTS (SELECT 1 FROM entries WHERE sequence = NEW.sequence
                 OR (kind = NEW.kind AND request = NEW.request))
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


@dataclass(frozen=True)
class Budget:
    """What an organisation allows to be spent on its users.

    Attributes:
        epsilon: most epsilon of all releases together; None allows releases without noise, which
            is for experiments only and is marked not private.
        delta: at which epsilon is counted.
    """

    epsilon: float | None
    delta: float


@dataclass(frozen=True)
class Release:
    """One line of what left an organisation."""

    what: str
    request: str
    size_bytes: int
    sha256: str


class Ledger:
    """Append-only record of one organisation's budget, intents and releases."""

    def __init__(self, path: Path, budget: Budget) -> None:
        """Open or create the ledger.

        Raises:
            PrivacyError: if it exists with another budget, or cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.budget = budget
        try:
            self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(SCHEMA)
            self._open()
        except sqlite3.DatabaseError as error:
            raise PrivacyError(
                f"{path}: cannot be used as a ledger ({error}); nothing is released without one"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def reserve(
        self, request: str, mechanism: Mechanism, count: int, plan: PrivacyPlan, secret: bool
    ) -> None:
        """Write the intent to spend, if the budget allows it, and sync it to disk.

        The check and the entry are one transaction, so that two processes cannot both fit into the
        last of a budget.

        Args:
            request: identifies the message; a second intent for it is refused.
            mechanism: of the release.
            count: private steps that it makes.
            plan: that it belongs to.
            secret: False when noise or sampling come from an experiment's seed.

        Raises:
            PrivacyError: if the request was seen before or the budget would be passed.
        """
        event = mechanism.event(count)
        with self._write() as connection:
            seen = connection.execute(
                "SELECT 1 FROM entries WHERE kind = 'intent' AND request = ?", (request,)
            ).fetchone()
            if seen:
                raise PrivacyError(
                    f"request {request} has spent its budget already; it is never trained twice"
                )
            self._check(merged([*self.events(), event]), plan)
            self._append(
                "intent",
                request,
                {
                    "mechanism": mechanism.name,
                    "sampling_rate": mechanism.sampling_rate,
                    "noise_multiplier": mechanism.noise_multiplier,
                    "sensitivity": mechanism.sensitivity,
                    "noise_share": mechanism.noise_share,
                    "count": count,
                    "plan": plan.sha256,
                    "noise": plan.noise.value,
                    "secret_randomness": secret,
                },
            )

    def record_release(self, request: str, what: str, size_bytes: int, sha256: str) -> None:
        """Write what is about to leave for a request whose intent stands."""
        with self._write():
            self._append(
                "release", request, {"what": what, "size_bytes": size_bytes, "sha256": sha256}
            )

    def released(self, request: str) -> bool:
        """Whether what left for a request is written down."""
        row = self._connection.execute(
            "SELECT 1 FROM entries WHERE kind = 'release' AND request = ?", (request,)
        ).fetchone()
        return row is not None

    def events(self) -> Events:
        """All that was spent, merged."""
        return merged(
            Event(body["sampling_rate"], body["noise_multiplier"], body["count"])
            for _, body in self._bodies("intent")
        )

    def releases(self) -> tuple[Release, ...]:
        """All that left, in order."""
        return tuple(
            Release(body["what"], request, body["size_bytes"], body["sha256"])
            for request, body in self._bodies("release")
        )

    def spent(self) -> float:
        """Epsilon of everything in the ledger at the budget's delta, by PLD confirmed by PRV."""
        return epsilon_checked(self.events(), self.budget.delta)

    def noise_multiplier(self, mechanism: str) -> float:
        """Least noise multiplier of any intent of a mechanism; 0 where there is none."""
        found = [
            float(body["noise_multiplier"])
            for _, body in self._bodies("intent")
            if body["mechanism"] == mechanism
        ]
        return min(found, default=0.0)

    def private(self) -> bool:
        """Whether every intent added noise, from a generator that nobody can repeat."""
        return all(
            body["noise_multiplier"] > 0.0 and body["secret_randomness"]
            for _, body in self._bodies("intent")
        )

    def _check(self, events: Events, plan: PrivacyPlan) -> None:
        limit = self.budget.epsilon
        if limit is None:
            if plan.noise is not Noise.NONE:
                raise PrivacyError(
                    f"{self.path}: has no budget, which is for experiments without noise only; "
                    f"the plan's noise is {plan.noise.value}"
                )
            return
        # What is part of a plan that fits as a whole costs no more than the plan; composing the
        # rest anew in each round would cost a second each time.
        plan_fits = epsilon_checked(plan.events(), self.budget.delta) <= limit
        if plan_fits and contained(events, plan.events()):
            return
        epsilon = epsilon_checked(events, self.budget.delta)
        if epsilon > limit:
            raise PrivacyError(
                f"{self.path}: this release would bring epsilon to {epsilon:.3f} at delta "
                f"{self.budget.delta:g}; the budget is {limit:g}. It is refused"
            )

    def _open(self) -> None:
        body = {
            "epsilon": self.budget.epsilon,
            "delta": self.budget.delta,
            "unit": "user",
            "adjacency": Adjacency.ADD_OR_REMOVE_ONE.value,
        }
        with self._write() as connection:
            row = connection.execute("SELECT body FROM entries WHERE kind = 'open'").fetchone()
            if row is None:
                self._append("open", None, body)
            elif json.loads(row[0]) != body:
                raise PrivacyError(
                    f"{self.path}: was opened with {row[0]}, now asked for {json.dumps(body)}; "
                    "a budget is not changed after the fact"
                )

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _append(self, kind: str, request: str | None, body: Mapping[str, Any]) -> None:
        self._connection.execute(
            "INSERT INTO entries (at, kind, request, body) VALUES (?, ?, ?, ?)",
            (
                datetime.now(UTC).isoformat(timespec="milliseconds"),
                kind,
                request,
                json.dumps(body, sort_keys=True),
            ),
        )

    def _bodies(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        rows = self._connection.execute(
            "SELECT request, body FROM entries WHERE kind = ? ORDER BY sequence", (kind,)
        )
        return [(request, json.loads(body)) for request, body in rows]
