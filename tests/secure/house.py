"""One real organisation behind its gate, and a server that holds all the others in its hand."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.agent import Agent
from client.gate import Gate, Resident
from client.ledger import Ledger
from client.resources import Resources
from shared.catalogue import Catalogue
from shared.config import Config, parse_config
from shared.errors import RefusedError
from shared.keys import SigningKey
from shared.messages import Request, pack_request, signed, unpack_reply
from shared.plan import PrivacyPlan
from shared.policy import Policy
from shared.roster import Announcement, Roster, context_of
from shared.settings import shared_settings
from shared.wire import POPULARITY, from_records, phase_kind, to_records
from tests.agent.house import histories
from tests.secure.parts import Arrays, Member, make_member, secure_plan

DECLARED = 20
NAMES = tuple(f"item {place}" for place in range(5))
ROWS = ([0, 1, 2, 3], [3, 2, 1, 4], [4], [0, 4])
NAME = "popularity"
KINDS = {phase: phase_kind(phase, NAME) for phase in ("keys", "shares", "unmask")}
KINDS["masked"] = POPULARITY


def catalogue(names: Sequence[str] = NAMES) -> Catalogue:
    """Made-up items of these names."""
    return Catalogue(tuple(names), tuple(names), {})


def run_config(**sections: Mapping[str, Any]) -> Config:
    """Of a run with secure sums and shared noise."""
    values: dict[str, dict[str, Any]] = {
        "partition": {"organisations": 4},
        "privacy": {"noise": "shared", "delta": 1e-4},
        "aggregation": {"mode": "secure"},
        "training": {"rounds": 3},
        "run": {"threads": 1},
    }
    for name, table in sections.items():
        values[name] = values.get(name, {}) | dict(table)
    return parse_config(values, "test")


def policy_of(
    members: Sequence[str], name: str = "house", epsilon: float | None = 8.0, **trust: Any
) -> Policy:
    """A policy that trusts these members' sums, one of whom may be against it."""
    rules = {"binds": "joint", "colluders": 1, "least_participants": 3, "members": tuple(members)}
    values: dict[str, dict[str, Any]] = {
        "organisation": {"name": name, "declared_users": DECLARED},
        "budget": {"epsilon": epsilon, "delta": 1e-4, "evaluation_share": 1.0},
        "mechanism": {
            "noise": "none" if epsilon is None else "shared",
            "least_noise_multiplier": 0.0,
            "least_noise_share": 0.1,
        },
        "trust": rules | trust,
    }
    return Policy.from_values(values, "test")


def no_model() -> Resources:
    """For what needs none."""
    raise AssertionError("the model was asked for")


@contextmanager
def open_agent(
    folder: Path,
    policy: Policy,
    config: Config,
    names: Sequence[str] = NAMES,
    rows: Sequence[Sequence[int]] = ROWS,
) -> Iterator[Agent]:
    """The agent of an organisation's folder, without a model."""
    key = SigningKey.load_or_create(folder / "keys" / "organisation.pem")
    with Ledger(folder / "ledger.sqlite", policy, key, "0" * 64) as ledger:
        own = histories(rows)
        yield Agent(0, folder, catalogue(names), own, own, ledger, config, no_model)


@dataclass
class Hostile:
    """A server with keys of its own making beside the victim's.

    Attributes:
        victim: the only honest organisation.
        key: of the server.
        config: of its run.
        plan: of its run.
        puppets: the other organisations, whose secrets the server knows.
        run, round, attempt: of the requests.
        roster: once keys were announced.
        dealt: answers of the second phase, by place.
        receipts: that were signed, by place.
    """

    victim: Agent
    key: SigningKey
    config: Config
    plan: PrivacyPlan
    puppets: list[Member]
    run: str = "run"
    round: int = 0
    attempt: int = 0
    roster: Roster = field(init=False)
    dealt: dict[int, Arrays] = field(default_factory=dict)
    receipts: dict[int, bytes] = field(default_factory=dict)

    def request(self, phase: str, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Request:
        """A signed request of a phase."""
        request = Request(
            self.run,
            self.round,
            self.plan,
            "model",
            dict(arrays or {}),
            federation=self.key.public,
            settings=shared_settings(self.config),
            attempt=self.attempt,
        )
        return signed(KINDS[phase], request, self.key)

    def ask(self, phase: str, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Arrays:
        """What the victim answers, through its gate.

        Raises:
            RefusedError: its refusal.
        """
        parcel = from_records(pack_request(self.request(phase, arrays)), "request")
        answer = Gate(Resident(self.victim)).ask(KINDS[phase], parcel)
        return unpack_reply(to_records(answer, "reply"), 0).arrays

    def refusal(
        self, phase: str, arrays: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> tuple[str, str]:
        """Rule and sentence of the refusal that a request meets, as the ledger has it."""
        before = len(self.victim.ledger.refusals())
        with pytest.raises(RefusedError) as caught:
            self.ask(phase, arrays)
        (found,) = self.victim.ledger.refusals()[before:]
        assert str(caught.value) == f"house refuses: [{found.rule}] {found.sentence}"
        return found.rule, found.sentence

    def announce(self) -> dict[str, Announcement]:
        """First phase: all keys, by signer."""
        lines = [Announcement.from_arrays(self.ask("keys"))]
        for puppet in self.puppets:
            lines.append(Announcement.from_arrays(puppet.act("keys", self.request("keys"), NAME)))
        return {line.signer: line for line in lines}

    def roster_of(self, lines: Mapping[str, Announcement]) -> Roster:
        """These lines in order."""
        context = context_of(self.request("keys"), NAME)
        return Roster(context, tuple(lines[signer] for signer in sorted(lines)))

    @property
    def own(self) -> int:
        """The victim's place."""
        return self.roster.signers.index(self.victim.ledger.key.public)

    @property
    def everybody(self) -> list[int]:
        """All places."""
        return list(range(len(self.roster.members)))

    def deal(self, lines: Mapping[str, Announcement] | None = None) -> Arrays:
        """Second phase with everybody, or with a roster of these lines."""
        self.roster = self.roster_of(self.announce() if lines is None else lines)
        arrays = self.roster.to_arrays()
        self.dealt = {self.own: self.ask("shares", arrays)}
        for puppet in self.puppets:
            if puppet.key.public in self.roster.signers:
                place = self.roster.signers.index(puppet.key.public)
                self.dealt[place] = puppet.act("shares", self.request("shares", arrays), NAME)
        return self.dealt[self.own]

    def masking(self, place: int, senders: Sequence[int] | None = None) -> Arrays:
        """What the third phase asks the organisation at ``place`` with."""
        chosen = self.everybody if senders is None else list(senders)
        return {
            "keys": catalogue().key_hashes,
            "secure.senders": np.array(chosen, dtype=np.int64),
            "secure.ciphertexts": np.stack([self.dealt[p]["ciphertexts"][place] for p in chosen]),
            "secure.digests": np.stack([self.dealt[p]["digests"][place] for p in chosen]),
        }

    def mask(self, senders: Sequence[int] | None = None) -> Arrays:
        """Third phase."""
        answer = self.ask("masked", self.masking(self.own, senders))
        self.receipts[self.own] = answer["receipt"].tobytes()
        for puppet in self.puppets:
            if puppet.key.public in self.roster.signers:
                place = self.roster.signers.index(puppet.key.public)
                if senders is None or place in senders:
                    asked = self.request("masked", self.masking(place, senders))
                    sent = puppet.act("masked", asked, NAME)
                    self.receipts[place] = sent["receipt"].tobytes()
        return answer

    def unmasking(
        self, included: Sequence[int] | None = None, senders: Sequence[int] | None = None
    ) -> Arrays:
        """What the fourth phase asks with; the victim's own receipt stands for missing ones."""
        chosen = self.everybody if included is None else list(included)
        receipts = [self.receipts.get(p, self.receipts[self.own]) for p in chosen]
        return {
            "secure.senders": np.array(
                self.everybody if senders is None else list(senders), dtype=np.int64
            ),
            "secure.included": np.array(chosen, dtype=np.int64),
            "secure.receipts": np.frombuffer(b"".join(receipts), dtype=np.uint8).reshape(-1, 64),
        }

    @property
    def spent(self) -> int:
        """Intents in the victim's ledger."""
        return len(self.victim.ledger.intents())

    def others(self, number: int) -> list[int]:
        """So many places that are not the victim's, the first ones."""
        return [place for place in self.everybody if place != self.own][:number]

    def with_own(self, number: int) -> list[int]:
        """So many places, the victim's among them."""
        return sorted([self.own, *self.others(number - 1)])


@contextmanager
def hostile(folder: Path, number: int = 4, least: int = 3, **trust: Any) -> Iterator[Hostile]:
    """A server, its puppets and their victim.

    Args:
        folder: of all files.
        number: of organisations.
        least: in a sum.
        trust: rules of the victim's policy that are not the usual ones.
    """
    own = SigningKey.load_or_create(folder / "house" / "keys" / "organisation.pem")
    others = [
        SigningKey.load_or_create(folder / f"puppet-{n}" / "organisation.pem")
        for n in range(number - 1)
    ]
    members = tuple(key.public for key in (own, *others))
    config = run_config(partition={"organisations": number})
    puppets = [
        make_member(
            folder / f"puppet-{n}", key, members, 1, least, np.zeros(len(NAMES), dtype=np.int64)
        )
        for n, key in enumerate(others)
    ]
    rules = {"least_participants": least} | trust
    policy = policy_of(members, **rules)
    key = SigningKey.load_or_create(folder / "server.pem")
    with open_agent(folder / "house", policy, config) as agent:
        yield Hostile(agent, key, config, secure_plan(least, 1), puppets)


def changed(arrays: Arrays, name: str, value: Any) -> Arrays:
    """The arrays with another one under a name."""
    return {**arrays, name: value}


def flipped(value: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The bytes with the last one changed."""
    other = value.copy()
    other.reshape(-1)[-1] ^= 1
    return other


def line_of(announcement: Announcement, **fields: Any) -> Announcement:
    """An announcement with some fields changed."""
    return dataclasses.replace(announcement, **fields)


def fresh(key: SigningKey, context: bytes, **given: bytes) -> Announcement:
    """Genuine keys for an attempt, or those given under a genuine signature."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    cipher, mask = given.get("cipher_key", public), given.get("mask_key", public)
    return Announcement.signed(key, context, cipher, mask, bytes(32))
