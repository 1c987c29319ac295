"""The privacy ledger of one organisation: what was spent is on disk before anything can leave.

An append-only SQLite table of chained, signed records (``shared.chain``). A release costs from its
``intent``, which is synced to disk before the noisy result exists; a crash in between counts as
spent. The judgement and the intent are one transaction, so that two processes cannot both fit into
the last of a budget.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from client.budget import BudgetJudge, Judgement
from shared.accounting import Events, epsilon_checked
from shared.chain import (
    NOTHING_BEFORE,
    Anchor,
    Fault,
    Head,
    Record,
    Sealed,
    chain_faults,
    filed_records,
    head_faults,
    now,
    read_anchors,
    read_sealed,
    seal,
)
from shared.entries import (
    Amendment,
    Entry,
    Intent,
    Opening,
    Refusal,
    Release,
    parse_entry,
    to_body,
)
from shared.errors import PrivacyError, RefusedError
from shared.files import atomic_path
from shared.judge import Past
from shared.keys import SigningKey
from shared.plan import Adjacency, PrivacyPlan
from shared.policy import Policy
from shared.stages import stage
from shared.trust import UNMASK, phase_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS records (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    request TEXT,
    record TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    signature TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_intent_per_request ON records (request)
    WHERE kind = 'intent';
CREATE INDEX IF NOT EXISTS by_request ON records (kind, request);
CREATE TRIGGER IF NOT EXISTS records_keep_their_values BEFORE UPDATE ON records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS records_are_not_replaced BEFORE INSERT ON records
    WHEN EXISTS (SELECT 1 FROM records WHERE sequence = NEW.sequence
                 OR (kind = 'intent' AND NEW.kind = 'intent' AND request = NEW.request))
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS records_stay BEFORE DELETE ON records
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


class Ledger:
    """Append-only record of one organisation's policy, intents, releases and refusals.

    Args:
        path: of the SQLite file; made if it is not there.
        policy: in force; must be the one that the ledger has last.
        key: signs every record.
        population: fingerprint of the users at present.
        purpose: ``federation`` or ``experiment``; written when the ledger is made.

    Raises:
        PrivacyError: if it has another policy, is damaged or rolled back, or is no ledger.
    """

    def __init__(
        self,
        path: Path,
        policy: Policy,
        key: SigningKey,
        population: str,
        purpose: str = "federation",
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.policy, self.policy_sha256 = policy, policy.sha256
        self.population = population
        self._key = key
        self._past = Past()
        self._read = 0
        self._in_force: Opening | Amendment | None = None
        self._own: list[tuple[Record, Entry | None]] = []
        self._budget = BudgetJudge(policy, self._past)
        try:
            self._connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            # A log that stays small is written over in place: a commit then syncs no file's growth.
            self._connection.execute("PRAGMA wal_autocheckpoint = 100")
            self._connection.executescript(SCHEMA)
            self._open(purpose)
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

    @property
    def key(self) -> SigningKey:
        """Signs every record."""
        return self._key

    @property
    def anchors_path(self) -> Path:
        """File beside the ledger with the newest anchor of each server.

        A copy outside the ledger, so that a ledger restored from an old copy is found out.
        """
        return self.path.with_name("anchors.json")

    def reserve(
        self, request: str, intent: Intent, plan: PrivacyPlan, anchor: Anchor | None = None
    ) -> int:
        """Judge an intent, write it and sync it to disk; returns the number of its record.

        Args:
            request: identifies the message; a second intent for it is refused.
            intent: what is about to be computed.
            plan: that it belongs to; the first intent of a run is judged by what the whole plan
                will cost.
            anchor: the server's signature under an earlier head, kept along the way.

        Raises:
            RefusedError: names every rule that it would break; the refusal is in the ledger.
        """
        with self._write() as connection:
            self._check_policy()
            if anchor is not None:
                self._keep_anchor(anchor)
            at = now()
            row = connection.execute(
                "SELECT sequence FROM records WHERE kind = 'intent' AND request = ?", (request,)
            ).fetchone()
            if row:
                refusals = [Refusal("request", f"request {request} has spent its budget already")]
            else:
                refusals = self._budget.judged([intent], plan, at)
            if not refusals:
                return self._append("intent", request, to_body(intent), at)
            for refusal in refusals:
                self._append_refusal(request, refusal)
        raise refused(self.policy.organisation.name, refusals)

    def propose(self, request: str, intents: Sequence[Intent], plan: PrivacyPlan) -> Judgement:
        """Judge a plan by one intent of each of its mechanisms, without spending anything.

        Raises:
            RefusedError: as ``reserve``; the refusal is in the ledger.
        """
        with self._write():
            self._check_policy()
            refusals = self._budget.judged(intents, plan, now(), proposed=True)
            for refusal in refusals:
                self._append_refusal(request, refusal)
        if refusals:
            raise refused(self.policy.organisation.name, refusals)
        return self._budget.judgement(plan, intents[0].run)

    def begun(self, run: str) -> str | None:
        """Hash of the plan under which a run has spent already; None for one that has not."""
        with self._write():
            return self._past.plan(run)

    def federation_of(self, run: str) -> str | None:
        """Key of the server that a run belongs to; None for a run that has spent nothing."""
        with self._write():
            return self._past.federation(run)

    def superseded(self) -> bool:
        """Whether another process has put another policy on record."""
        with self._write():
            return not self._governs()

    def record_release(self, request: str, release: Release) -> None:
        """Write what is about to leave.

        Raises:
            PrivacyError: if it names an intent that does not stand for this request, or is no
                reply of a secure sum though it says so.
        """
        with self._write() as connection:
            self._check_policy()
            if release.mechanism == "protocol":
                self._check_protocol(request, release)
            elif release.mechanism != "none":
                row = connection.execute(
                    "SELECT 1 FROM records WHERE kind = 'intent' AND request = ? AND sequence = ?",
                    (request, release.intent),
                ).fetchone()
                if row is None:
                    raise PrivacyError(
                        f"{request}: a release without an intent of its own; it is not sent"
                    )
            self._append("release", request, to_body(release))

    def record_refusal(self, request: str, refusal: Refusal) -> None:
        """Write what was asked and not done; the same refusal of a request is written once."""
        with self._write():
            self._append_refusal(request, refusal)

    def keep_anchor(self, anchor: Anchor) -> None:
        """Keep a server's signature under an earlier head.

        Raises:
            PrivacyError: if it is of another ledger, or of a record that is no longer there.
        """
        with self._write():
            self._keep_anchor(anchor)

    def amend(self, policy: Policy) -> None:
        """Put another policy in force, on the record."""
        with self._write():
            self._append("policy", None, to_body(Amendment(policy.to_record(), policy.sha256)))
        self.policy, self.policy_sha256 = policy, policy.sha256
        self._budget = BudgetJudge(policy, self._past)

    def head(self) -> Head:
        """The newest record's place, hash and signature."""
        found = self._head_at("(SELECT MAX(sequence) FROM records)")
        assert found is not None
        return found

    def has(self, head: Head) -> bool:
        """Whether a head is, or was once, this ledger's."""
        return self._head_at("?", head.sequence) == head

    def _head_at(self, place: str, *values: int) -> Head | None:
        with stage("ledger"):
            row = self._connection.execute(
                "SELECT first.sha256, chosen.sequence, chosen.sha256, chosen.signature "
                "FROM records AS first, records AS chosen "
                f"WHERE first.sequence = 1 AND chosen.sequence = {place}",
                values,
            ).fetchone()
        return None if row is None else Head(row[0], self._key.public, *row[1:])

    def intent_of(self, request: str) -> int:
        """Number of the intent's record for a request; 0 where there is none."""
        return self._number("intent", request)

    def release_of(self, request: str) -> Release | None:
        """What left for a request, the newest where it was sent again; or None."""
        found = [e for e in self._entries("release", request) if isinstance(e, Release)]
        return found[-1] if found else None

    def released_at(self, request: str) -> int:
        """Number of the release's record for a request; 0 where there is none."""
        return self._number("release", request)

    def intents(self) -> tuple[Intent, ...]:
        """All that was spent, in order."""
        return tuple(e for e in self._entries("intent") if isinstance(e, Intent))

    def releases(self) -> tuple[Release, ...]:
        """All that left, in order."""
        return tuple(e for e in self._entries("release") if isinstance(e, Release))

    def refusals_of(self, request: str) -> tuple[Refusal, ...]:
        """What was refused for a request, in order."""
        return tuple(e for e in self._entries("refusal", request) if isinstance(e, Refusal))

    def refusals(self) -> tuple[Refusal, ...]:
        """All that was refused, in order."""
        return tuple(e for e in self._entries("refusal") if isinstance(e, Refusal))

    def events(self, binds: str | None = None) -> Events:
        """Cost of all intents, merged: joint, alone, or by default what the policy binds."""
        with self._write():
            return self._past.events(binds=binds or self.policy.trust.binds)

    def spent(self, binds: str | None = None) -> float:
        """Epsilon of ``events`` at the budget's delta, by PLD confirmed by PRV."""
        return epsilon_checked(self.events(binds), self.policy.budget.delta)

    def private(self) -> bool:
        """Whether every intent added noise, from a generator that nobody can repeat."""
        return all(intent.private for intent in self.intents())

    def _check_protocol(self, request: str, release: Release) -> None:
        """Shares that unmask leave after the intent, and from then on nothing is made anew."""
        phase, masked = phase_of(request)
        if not phase or release.intent:
            raise PrivacyError(f"{request}: is no phase of a secure sum; it is not sent")
        spent = self.intent_of(masked)
        if phase == UNMASK and not spent:
            raise PrivacyError(f"{request}: {masked} has no intent; its shares are not sent")
        left = [e.sha256 for e in self._entries("release", request) if isinstance(e, Release)]
        if spent and left and left[-1] != release.sha256:
            raise PrivacyError(f"{request}: was answered with other arrays; these are not sent")

    def _open(self, purpose: str) -> None:
        with self._write() as connection:
            stored, misfiled = filed_records(connection)
            if not stored:
                self._start(purpose)
                return
        faults = misfiled + chain_faults(stored, self._key.public) + self._rolled_back(stored)
        if faults:
            raise PrivacyError(
                f"{self.path}: record {faults[0].sequence}: {faults[0].sentence}. Nothing is "
                "released on a damaged ledger; tacit audit verify lists every fault"
            )
        assert self._in_force is not None
        recorded = Policy.from_record(self._in_force.policy)
        if recorded != self.policy:
            raise PrivacyError(
                f"{self.path}: has another policy: {self.policy.differences(recorded)}. A policy "
                "is not changed in passing: tacit policy amend puts the new one on record"
            )

    def _start(self, purpose: str) -> None:
        if self.anchors_path.exists():
            raise PrivacyError(
                f"{self.path}: is empty, but {self.anchors_path.name} says that a server has seen "
                "its records: it was deleted. Restore it, or begin anew in another folder"
            )
        opening = Opening(
            self._key.public,
            self.policy.to_record(),
            self.policy.sha256,
            "user",
            Adjacency.ADD_OR_REMOVE_ONE.value,
            self.population,
            purpose,
        )
        self._append("open", None, to_body(opening))

    def _rolled_back(self, stored: Sequence[Sealed]) -> list[Fault]:
        if not self.anchors_path.exists():
            return []
        return head_faults(stored, read_anchors(self.anchors_path).values(), strict=True)

    def _keep_anchor(self, anchor: Anchor) -> None:
        row = self._connection.execute(
            "SELECT first.sha256, seen.sha256 FROM records AS first, records AS seen "
            "WHERE first.sequence = 1 AND seen.sequence = ?",
            (anchor.sequence,),
        ).fetchone()
        if not anchor.genuine() or row != (anchor.ledger, anchor.sha256):
            raise PrivacyError(
                f"{self.path}: server {anchor.server_key[:12]} has seen record {anchor.sequence} "
                f"as {anchor.sha256[:12]}, which is not in this ledger: it was rolled back or "
                "belongs to another"
            )
        kept = read_anchors(self.anchors_path) if self.anchors_path.exists() else {}
        before = kept.get(anchor.server_key)
        if before is not None and before.sequence >= anchor.sequence:
            return
        self._append("anchor", None, vars(anchor))
        texts = {key: value.to_json() for key, value in {**kept, anchor.server_key: anchor}.items()}
        with atomic_path(self.anchors_path) as temporary:
            temporary.write_text(json.dumps(texts, indent=2) + "\n")

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that has read everything written before it."""
        with stage("ledger"):
            self._connection.execute("BEGIN IMMEDIATE")
            own: list[tuple[Record, Entry | None]] = []
            try:
                self._refresh()
                self._own = own
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            for record, entry in own:
                self._count(record, entry)

    def _refresh(self) -> None:
        rows = self._connection.execute(
            "SELECT record FROM records WHERE sequence > ? ORDER BY sequence", (self._read,)
        )
        for (text,) in rows.fetchall():
            record = Record.parse(text)
            self._count(record, parse_entry(record))

    def _count(self, record: Record, entry: Entry | None) -> None:
        if isinstance(entry, Intent):
            self._past.add(entry, record.at)
        if isinstance(entry, Opening | Amendment):
            self._in_force = entry
        if isinstance(entry, Opening):
            self._past.opening = entry
        self._read = record.sequence

    def _check_policy(self) -> None:
        if not self._governs():
            raise PrivacyError(
                f"{self.path}: its policy was amended by another process; start this one anew"
            )

    def _governs(self) -> bool:
        in_force = self._in_force
        return in_force is not None and in_force.policy_sha256 == self.policy_sha256

    def _append_refusal(self, request: str, refusal: Refusal) -> None:
        short = refusal.shortened()
        if short not in self.refusals_of(request):
            self._append("refusal", request, to_body(short))

    def _append(
        self, kind: str, request: str | None, body: Mapping[str, Any], at: str | None = None
    ) -> int:
        row = self._connection.execute(
            "SELECT sequence, sha256 FROM records ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        sequence, previous = (row[0] + 1, row[1]) if row else (1, NOTHING_BEFORE)
        record = Record(sequence, previous, at or now(), kind, request, body)
        # What cannot be read back would close the ledger for good.
        entry = parse_entry(record)
        sealed = seal(record, self._key)
        self._own.append((record, entry))
        self._connection.execute(
            "INSERT INTO records (sequence, kind, request, record, sha256, signature) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (sequence, kind, request, sealed.text, sealed.sha256, sealed.signature),
        )
        return sequence

    def _number(self, kind: str, request: str) -> int:
        with stage("ledger"):
            row = self._connection.execute(
                "SELECT sequence FROM records WHERE kind = ? AND request = ? ORDER BY sequence "
                "LIMIT 1",
                (kind, request),
            ).fetchone()
        return 0 if row is None else int(row[0])

    def _entries(self, kind: str, request: str | None = None) -> Iterator[Entry | None]:
        """Entries of a kind in order: of one request, or by default all."""
        chosen = "kind = ?" if request is None else "kind = ? AND request = ?"
        with stage("ledger"):
            rows = self._connection.execute(
                f"SELECT record FROM records WHERE {chosen} ORDER BY sequence",
                (kind,) if request is None else (kind, request),
            ).fetchall()
        return (parse_entry(Record.parse(text)) for (text,) in rows)


def refused(name: str, refusals: Sequence[Refusal]) -> RefusedError:
    """One error for all rules that a request would break."""
    return RefusedError(
        f"{name} refuses: "
        + "; ".join(f"[{r.rule}] {r.sentence}" for r in (f.shortened() for f in refusals))
    )


def policy_in_force(stored: Sequence[Sealed]) -> Policy:
    """The last policy of a ledger's records."""
    found = None
    for sealed in stored:
        record = Record.parse(sealed.text)
        if record.kind in ("open", "policy"):
            found = parse_entry(record)
    if not isinstance(found, Opening | Amendment):
        raise PrivacyError("the ledger has no records, and so no policy in force")
    return Policy.from_record(found.policy)


def amended(path: Path, policy: Policy, key: SigningKey, population: str) -> str:
    """Put a policy on record in the ledger at ``path``; says what it changes, empty for nothing.

    Raises:
        PrivacyError: if there is no sound ledger.
    """
    before = policy_in_force(read_sealed(path))
    if before == policy:
        return ""
    with Ledger(path, before, key, population) as ledger:
        ledger.amend(policy)
    return policy.differences(before)
