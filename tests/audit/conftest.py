"""A real ledger with everything that a run leaves, ways to tamper with it, and to verify it."""

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from audit.bundle import read_evidence
from audit.heads import read_heads
from audit.verify import Verification, verify_ledger
from client.ledger import Ledger
from shared.chain import (
    Anchor,
    Fault,
    Head,
    Record,
    Sealed,
    canonical,
    countersign,
    now,
    read_sealed,
    seal,
)
from shared.config import parse_config
from shared.entries import Entry, Intent, Refusal, Release, to_body
from shared.keys import SigningKey
from shared.plan import PrivacyPlan, make_plan
from shared.policy import BudgetRules, MechanismRules, OrganisationRules, Policy, TrustRules

POPULATION = "ab" * 32
STEPS = 3


@dataclass
class House:
    """An organisation's folder, its keys, and what its server has seen."""

    folder: Path
    policy: Policy
    plan: PrivacyPlan
    key: SigningKey
    server: SigningKey
    anchor: Anchor | None = None
    seen: list[Head] = field(default_factory=list)
    participants: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def heads(self) -> Path:
        return self.folder / "heads.jsonl"

    def open(self) -> Ledger:
        return Ledger(self.path, self.policy, self.key, POPULATION)

    def intent(self, name: str, round_number: int = 0, run: str = "r", **changes: Any) -> Intent:
        intent = Intent.of(
            self.plan.mechanism(name),
            self.plan,
            1,
            run=run,
            round=round_number,
            federation="",
            participants=self.participants,
            secret_randomness=True,
            adapter_before="",
            policy=self.policy.sha256,
            population=POPULATION,
            code="code",
            canaries=0,
        )
        return dataclasses.replace(intent, **changes)

    def see(self, head: Head, name: str = "") -> Anchor:
        """What a server does with the head of a reply."""
        anchor = countersign(head, "r", self.server)
        line = {
            "head": dataclasses.asdict(head),
            "anchor": dataclasses.asdict(anchor),
            "name": name or self.policy.organisation.name,
            "declared_users": self.policy.organisation.declared_users,
            "run": "r",
        }
        with self.heads.open("a") as file:
            file.write(canonical(line) + "\n")
        return anchor

    def release(self, ledger: Ledger, name: str, round_number: int = 0) -> None:
        """One honest round: reserve, record, answer, and be seen."""
        request = f"r/{round_number}/{name}"
        intent = self.intent(name, round_number)
        number = ledger.reserve(request, intent, self.plan, self.anchor)
        ledger.record_release(request, released(name, number))
        self.anchor = self.see(ledger.head())

    def append(self, kind: str, request: str | None, body: Entry | dict[str, Any]) -> int:
        """A record that the real key signs and the real ledger would not write; its number."""
        last = self.stored()[-1]
        number = len(self.stored()) + 1
        content = body if isinstance(body, dict) else to_body(body)
        record = Record(number, last.sha256, now(), kind, request, content)
        self.insert(number, kind, request, seal(record, self.key))
        return number

    def insert(self, number: int, kind: str, request: str | None, sealed: Sealed) -> None:
        self.tamper(
            "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)",
            (number, kind, request, sealed.text, sealed.sha256, sealed.signature),
        )

    def stored(self) -> list[Sealed]:
        return read_sealed(self.path)

    def record(self, number: int) -> Record:
        return Record.parse(self.stored()[number - 1].text)

    def number_of(self, kind: str, request: str | None = None) -> int:
        """Of the first record of a kind."""
        for place, sealed in enumerate(self.stored(), start=1):
            record = Record.parse(sealed.text)
            if record.kind == kind and request in (None, record.request):
                return place
        raise AssertionError(f"no {kind} of {request}")

    def tamper(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement on the file as somebody would who has taken the triggers off."""
        with closing(sqlite3.connect(self.path)) as connection:
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('trigger', 'index') AND sql NOT NULL"
            ).fetchall():
                kind = "INDEX" if name in ("one_intent_per_request", "by_request") else "TRIGGER"
                connection.execute(f"DROP {kind} {name}")
            connection.execute(statement, values)
            connection.commit()

    def truncate(self, last: int) -> None:
        """Delete the end of the ledger."""
        self.tamper("DELETE FROM records WHERE sequence > ?", (last,))

    def rewrite(self, records: Sequence[Record], key: SigningKey) -> None:
        """Put other records in place of all, chained, numbered and signed anew."""
        self.truncate(0)
        previous = "0" * 64
        for number, record in enumerate(records, start=1):
            moved = dataclasses.replace(record, sequence=number, previous=previous)
            sealed = seal(moved, key)
            self.insert(number, record.kind, record.request, sealed)
            previous = sealed.sha256

    def verify(self, heads: bool = False, **options: Any) -> Verification:
        """Of the folder, with the server's heads or without."""
        seen = read_heads(self.heads) if heads else None
        return verify_ledger(read_evidence(self.folder), heads=seen, **options)


def released(mechanism: str, intent: int, content: str = "cd") -> Release:
    """The release that an honest agent would record for an intent."""
    arrays = () if mechanism == "none" else ("values float32 [3]",)
    size = 12 if arrays else 0
    fields = ("name", "declared_users", "round", "head")
    return Release(mechanism, intent, content * 32, size, arrays, fields)


def _sensible_policy(
    epsilon: float | None = 1.0, trust: dict[str, Any] | None = None, **rules: Any
) -> Policy:
    return Policy(
        organisation=OrganisationRules(name="org-1", declared_users=118),
        budget=BudgetRules(epsilon=epsilon, delta=5e-4),
        mechanism=MechanismRules(**rules),
        trust=TrustRules(**(trust or {})),
    )


def _plan(mode: str) -> PrivacyPlan:
    config = parse_config(
        {
            "privacy": {"epsilon": 1.0, "delta": 5e-4},
            "training": {"rounds": STEPS},
            "partition": {"organisations": 8},
            "aggregation": {"mode": mode},
        },
        "test",
    )
    return make_plan(config, 943, 8)


def _build(folder: Path) -> House:
    house = House(
        folder,
        _sensible_policy(),
        _plan("plain"),
        SigningKey.load_or_create(folder / "keys" / "organisation.pem"),
        SigningKey.load_or_create(folder / "server.pem"),
    )
    with house.open() as ledger:
        ledger.record_release("r/0/join", released("none", 0))
        house.anchor = house.see(ledger.head())
        house.release(ledger, "popularity")
        house.release(ledger, "cooccurrence")
        for number in range(1, STEPS + 1):
            house.release(ledger, "step", number)
        ledger.record_refusal("r/9/step", Refusal("plan", "the plan has no further step"))
    return house


@pytest.fixture(scope="session")
def _house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return _build(tmp_path_factory.mktemp("house"))


@pytest.fixture
def house(_house: House, tmp_path: Path) -> House:
    """18 records of a whole run; record 14 is the newest in anchors.json, 17 in the heads file."""
    shutil.copytree(_house.folder, tmp_path / "house")
    return dataclasses.replace(_house, folder=tmp_path / "house")


@pytest.fixture
def secure_house(tmp_path: Path) -> House:
    """17 records of the statistics and one round of a run whose sums are secure, of eight houses.

    Records: 1 open, 2 join; then for popularity, co-occurrence and a step each: keys, shares,
    intent, masked input, shares that unmask.
    """
    folder = tmp_path / "secure"
    key = SigningKey.load_or_create(folder / "keys" / "organisation.pem")
    houses = (key.public, *(f"{number:02x}" * 32 for number in range(0xB1, 0xB8)))
    policy = _sensible_policy(
        noise="shared",
        distribution=("discrete",),
        least_noise_share=6**-0.5,
        trust={"binds": "joint", "least_participants": 7, "members": houses},
    )
    server = SigningKey.load_or_create(folder / "server.pem")
    house = House(folder, policy, _plan("secure"), key, server, participants=houses)
    with house.open() as ledger:
        ledger.record_release("r/0/join", released("none", 0))
        for name, number in (("popularity", 0), ("cooccurrence", 0), ("step", 1)):
            for phase in ("keys", "shares"):
                ledger.record_release(f"r/{number}/{phase}_{name}", released("protocol", 0, "aa"))
            request = f"r/{number}/{name}"
            intent = ledger.reserve(request, house.intent(name, number), house.plan)
            ledger.record_release(request, released(name, intent))
            ledger.record_release(f"r/{number}/unmask_{name}", released("protocol", 0, "bb"))
        house.anchor = house.see(ledger.head())
    return house


@pytest.fixture(scope="session")
def places() -> Callable[[Sequence[Fault], str], list[int]]:
    """Numbers of the records of which a sentence with these words is said."""
    return lambda faults, words: [f.sequence for f in faults if words in f.sentence]


@pytest.fixture(scope="session")
def make_release() -> Callable[..., Release]:
    """The release that an honest agent would record for an intent."""
    return released


@pytest.fixture(scope="session")
def make_policy() -> Callable[..., Policy]:
    """The policy of the ledger in these tests, with other rules for mechanisms."""
    return _sensible_policy


@pytest.fixture
def stranger(tmp_path: Path) -> SigningKey:
    """A key that nobody knows."""
    return SigningKey.load_or_create(tmp_path / "stranger.pem")
