"""Organisations without data: real sessions, a real server's sums, and a record of what it sees."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Context, Message
from flwr.app.error import Error

from client.session import Session
from server.heads import HeadBook
from server.inquiry import Inquiry
from server.secure import SecureSum, SecureSums
from shared.config import ServerSection
from shared.errors import RefusedError, TacitError
from shared.keys import SigningKey
from shared.messages import Reply, Request, pack_reply, parse_request
from shared.plan import Aggregation, Mechanism, Noise, PrivacyPlan
from shared.policy import TrustRules
from shared.wire import FAILED, PHASE_OF, SUMMED, from_records
from simulations.engine import InProcessGrid

Arrays = dict[str, npt.NDArray[Any]]
Change = Callable[[Arrays], Arrays]

PHASES = ("keys", "shares", "masked", "unmask")
MECHANISM = "step"
# Of a grid for sensitivity 1.
SPACING = 2.0**-23
DECLARED = 100


def secure_plan(least: int, colluders: int, word_bytes: int = 5, **more: Any) -> PrivacyPlan:
    """Three steps and a popularity whose noise is shared."""
    share = (least - colluders) ** -0.5
    step = Mechanism("step", 1.0, 2.0, 1.0, share, "discrete", 23)
    popularity = Mechanism("popularity", 1.0, 2.0, 1.0, share, "discrete", 23)
    values: dict[str, Any] = {
        "popularity": popularity,
        "cooccurrence": None,
        "step": step,
        "evaluation": None,
        "steps": 3,
        "delta": 1e-4,
        "epsilon": 8.0,
        "noise": Noise.SHARED,
        "aggregation": Aggregation.SECURE,
        "least_participants": least,
        "colluders": colluders,
        "word_bytes": word_bytes,
    }
    return PrivacyPlan(**values | more)


def refusing(rule: str, sentence: str) -> RefusedError:
    """As an organisation without a ledger refuses."""
    return RefusedError(f"[{rule}] {sentence}")


@dataclass
class Member:
    """One organisation.

    Attributes:
        path: file of its session.
        session: its part in secure sums.
        key: signs its keys.
        trust: its policy.
        steps: ``[coordinates] int64`` that it adds, in grid steps.
        answers: masked vectors that have left, by request.
    """

    path: Path
    session: Session
    key: SigningKey
    trust: TrustRules
    steps: npt.NDArray[np.int64]
    answers: dict[str, Arrays] = field(default_factory=dict)

    def act(self, phase: str, request: Request, mechanism: str = MECHANISM) -> Arrays:
        """The answer to one phase; as ``client.agent`` does, without ledger and data."""
        plan, session = request.plan, self.session
        assert plan is not None
        name = request.identifier(mechanism)
        if phase == "keys":
            return dict(session.announce(request, plan, mechanism, self.trust, refusing))
        if phase == "shares":
            return dict(session.deal(request, plan, mechanism, self.trust, refusing))
        if phase == "masked":
            session.admit(request, plan, mechanism, refusing)
            if name not in self.answers:
                words = self.steps.view(np.uint64).copy()
                self.answers[name] = dict(session.masked(words, plan.word_bytes))
            return self.answers[name]
        return dict(session.unmask(request, plan, mechanism, name in self.answers, refusing))

    @property
    def state(self) -> dict[str, Any]:
        """What its file says."""
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def change(self, **fields: Any) -> None:
        """Write other values into its file."""
        self.path.write_text(json.dumps({**self.state, **fields}))


@dataclass(frozen=True)
class Seen:
    """One message and its answer, as the server sees them; no arrays where none came."""

    phase: str
    number: int
    request: Request
    reply: Mapping[str, npt.NDArray[Any]]
    reason: str = ""


@dataclass
class Federation:
    """A server's sums with nodes that are ``Member``s.

    Attributes:
        folder: of all files.
        plan: of the run.
        members: by their number.
        lost: phase from which on a member gives no answer, by its number.
        deaf: whether those that are lost do not even get the message; otherwise their answer goes
            astray after they have acted.
        changes: what is done to a member's answer in a phase before it leaves; may refuse.
        asks: what is done to the arrays of a request for a member in a phase before it comes.
        seen: all that went to and fro.
    """

    folder: Path
    plan: PrivacyPlan
    members: list[Member]
    lost: dict[int, str] = field(default_factory=dict)
    deaf: bool = True
    changes: dict[tuple[int, str], Change] = field(default_factory=dict)
    asks: dict[tuple[int, str], Change] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        book = HeadBook(self.folder / "server")
        nodes = len(self.members)
        self.inquiry = Inquiry("run", "model", ServerSection(), book, "{}", self.plan)
        self.grid = InProcessGrid(self._answer, {}, nodes)  # type: ignore[arg-type]
        self.inquiry.members = {
            node: (f"house {node}", DECLARED) for node in self.grid.get_node_ids()
        }
        self.sums = SecureSums(self.inquiry, self.plan)

    @property
    def size(self) -> int:
        """Coordinates of the sum."""
        return len(self.members[0].steps)

    def total(self, repeat: bool = True, round_number: int = 1) -> SecureSum:
        """One secure sum of what all members add."""
        asked = {"adapter": np.zeros(3, dtype=np.float32)}
        return self.sums.total(self.grid, MECHANISM, asked, round_number, self.size, repeat)

    def sum_of(self, numbers: Iterable[int]) -> npt.NDArray[np.float64]:
        """What the members of these numbers add, in the clear."""
        whole = sum((self.members[n].steps for n in numbers), np.zeros(self.size, dtype=np.int64))
        return np.asarray(whole * SPACING)

    def names(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """What members of these numbers are called, in order."""
        return tuple(sorted(f"house {number + 2}" for number in numbers))

    @property
    def reasons(self) -> list[str]:
        """Why answers were not used, in order."""
        return [refusal.reason for refusal in self.inquiry.refusals]

    def unmasked_for(self) -> list[int]:
        """How many vectors were in each sum for which somebody gave shares."""
        return [
            len(one.request.arrays["secure.included"])
            for one in self.seen
            if one.phase == "unmask" and one.reply
        ]

    def places(self, numbers: Iterable[int]) -> list[int]:
        """Where members of these numbers stand in a roster of all, ascending."""
        signers = sorted(member.key.public for member in self.members)
        return sorted(signers.index(self.members[number].key.public) for number in numbers)

    def _answer(self, message: Message, context: Context) -> Message:
        kind, number = message.metadata.message_type, int(str(context.node_config["partition-id"]))
        phase, mechanism = PHASE_OF.get(kind) or (
            "masked",
            next(name for name, asked in SUMMED.items() if asked == kind),
        )
        request = parse_request(from_records(message.content, "request"))
        arrays = self.asks.get((number, phase), dict)(request.arrays)
        request = dataclasses.replace(request, arrays=arrays)
        since = self.lost.get(number)
        gone = since is not None and PHASES.index(phase) >= PHASES.index(since)
        try:
            if gone and (self.deaf or phase != since):
                raise RefusedError("lost")
            arrays = self.members[number].act(phase, request, mechanism)
            if gone:
                raise RefusedError("lost")
            arrays = self.changes.get((number, phase), dict)(arrays)
        except TacitError as error:
            self.seen.append(Seen(phase, number, request, {}, str(error)))
            return Message(Error(code=FAILED, reason=str(error)), reply_to=message)
        self.seen.append(Seen(phase, number, request, arrays))
        name, declared = self.inquiry.members[context.node_id]
        return Message(pack_reply(Reply(name, declared, request.round, arrays)), reply_to=message)


def make_federation(
    folder: Path, number: int, least: int, colluders: int = 1, size: int = 6, seed: int = 0
) -> Federation:
    """Organisations under the keys of their folders, that add numbers within three sensitivities.

    Args:
        folder: of all files.
        number: of organisations.
        least: in a sum.
        colluders: that the plan and all policies allow for.
        size: of the vectors.
        seed: of the vectors.
    """
    random = np.random.default_rng(seed)
    keys = [
        SigningKey.load_or_create(folder / str(place) / "organisation.pem")
        for place in range(number)
    ]
    members = tuple(key.public for key in keys)
    return Federation(
        folder,
        secure_plan(least, colluders),
        [
            make_member(
                folder / str(place),
                key,
                members,
                colluders,
                least,
                random.integers(-3 * 2**23, 3 * 2**23, size),
            )
            for place, key in enumerate(keys)
        ],
    )


def make_member(
    folder: Path,
    key: SigningKey,
    members: tuple[str, ...],
    colluders: int,
    least: int,
    steps: npt.NDArray[np.int64],
) -> Member:
    """An organisation that trusts these members so far, and adds ``steps``."""
    trust = TrustRules(members=members, colluders=colluders, least_participants=least)
    path = folder / "secure_sum.json"
    return Member(path, Session(path, key), key, trust, steps)
