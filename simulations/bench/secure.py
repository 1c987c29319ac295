"""``tacit bench secure``: seconds and bytes of secure sums, of real sessions and a real server.

One process plays the server and all organisations, one after the other, without model and data: the
sum that each adds is zero, its noise is real. Seconds are of the processor, and of one core. What
an organisation waits for its disk is counted apart.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.clientapp import ClientApp

from client.session import Session
from server.heads import HeadBook
from server.inquiry import Inquiry
from server.secure import SecureSums
from shared.config import Config
from shared.errors import FederationError, RefusedError
from shared.fixed_point import Words, from_words, to_words
from shared.keys import SigningKey
from shared.masks import SECRET_BYTES, add_stream
from shared.messages import Reply, Request, genuine, parse_request, reply_parcel
from shared.plan import Mechanism, PrivacyPlan, make_plan
from shared.policy import TrustRules
from shared.randomness import from_operating_system
from shared.stages import stage_seconds
from shared.wire import (
    FAILED,
    KEYS,
    PHASE_OF,
    SHARES,
    UNMASK,
    arrays_sha256,
    from_records,
    to_records,
)
from simulations.bench.memory import watched
from simulations.engine import InProcessGrid
from simulations.variants import with_sections

ORGANISATIONS = (3, 8, 20, 50)
USUAL, LARGEST = (25_000, 1_000_000), (25_000, 1_000_000, 10_000_000)
USERS = 1000
MECHANISM = "step"
MASKED = "masked"
# What is timed by itself is repeated for so long.
LEAST_S = 0.05
# Organisations that draw noise; the others, whose noise would take as long, add none.
DRAWING = 3

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SecureRow:
    """One secure sum. Seconds of an organisation are means.

    Attributes:
        organisations: that exchange keys.
        least: that must be in the sum.
        lost: of them, after they dealt shares.
        coordinates: of the sum.
        word_bytes: of a masked number.
        keys_s, shares_s: of an organisation, in the first two phases.
        noise_s: to draw it and to make words of it; of those that draw.
        masks_s: to mask the words and to pack them.
        opening_s: to open the shares that come with the request for the vector.
        packing_s: to read, check and hash that request and to hash and pack the reply, as often as
            an agent does.
        unmask_s: in the last phase.
        disk_s: wall time that an organisation waits for the file of its session.
        server_shares_s: of the server until it asks for masked vectors.
        server_vectors_s: until it has read and checked them, and asks for shares.
        server_unmask_s: until it has the sum's words.
        server_decode_s: to make numbers of them and to look at their norm.
        up_bytes, down_bytes: of an organisation in all four phases, mean over those in the sum;
            what comes down has the adapter, as float32, with it.
        up_ratio: ``up_bytes`` over those of the same vector as float32.
        stream_mb_per_s: of the vector as float32, to expand one stream and add it.
        masks_mb_per_s: of the vector as float32, under all masks.
        peak_mb: of the whole process, the vectors of all at the server among it.
    """

    organisations: int
    least: int
    lost: int
    coordinates: int
    word_bytes: int
    keys_s: float
    shares_s: float
    noise_s: float
    masks_s: float
    opening_s: float
    packing_s: float
    unmask_s: float
    disk_s: float
    server_shares_s: float
    server_vectors_s: float
    server_unmask_s: float
    server_decode_s: float
    up_bytes: int
    down_bytes: int
    up_ratio: float
    stream_mb_per_s: float
    masks_mb_per_s: float
    peak_mb: float


def measure(
    config: Config,
    organisations: Sequence[int],
    coordinates: Sequence[int],
    lost: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> list[SecureRow]:
    """Time one secure sum of every size, and compare it with the sum of what went in.

    Args:
        config: privacy and aggregation.
        organisations: that take part.
        coordinates: of the sum.
        lost: organisations that deal shares and send no vector; fewer where a plan allows fewer.
        say: told what is being done.

    Raises:
        FederationError: if the sum is not that of what went in.
        ConfigError: if so few organisations make no secure sum.
    """
    rows = []
    for size in coordinates:
        for number in organisations:
            say(f"{number} organisations, {size:,} coordinates")
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(_row(_plan(config, number), number, size, lost, Path(scratch)))
    return rows


def _plan(config: Config, organisations: int) -> PrivacyPlan:
    secure = with_sections(
        config,
        partition={"organisations": organisations},
        aggregation={"mode": "secure"},
        privacy={"noise": "shared", "noise_seed": -1},
        training={"steps_per_round": 1},
    )
    return make_plan(secure, USERS * organisations, organisations)


def _row(plan: PrivacyPlan, number: int, size: int, lost: int, folder: Path) -> SecureRow:
    clock = _Clock()
    table = _Table(folder, number, size, min(lost, number - plan.least_participants), clock)
    inquiry = Inquiry("bench", "model", Config().server, HeadBook(folder / "server"), "{}", plan)
    grid = InProcessGrid(table, {}, number)
    nodes = sorted(grid.get_node_ids())
    inquiry.members = {node: (f"house {node}", USERS) for node in nodes}
    adapter = {"adapter": np.zeros(size, dtype=np.float32)}
    with watched() as peak:
        clock.server_begins()
        found = SecureSums(inquiry, plan).total(grid, MECHANISM, adapter, 1, size, repeat=False)
        clock.server_ends("last")
    if len(found.names) != number - table.lost or not np.array_equal(
        found.values, _numbers(table.expected, plan)
    ):
        raise FederationError(
            f"a secure sum of {number} organisations is not the sum of what went in; please report "
            "it with these figures"
        )
    decode_s = _seconds(lambda: np.linalg.norm(_numbers(table.expected, plan)))
    words = np.zeros(size, dtype=np.uint64)
    stream_s = _seconds(lambda: add_stream(words, bytes(SECRET_BYTES), 1))
    inside = number - table.lost
    own = clock.seconds
    up, down = round(table.up_bytes / inside), round(table.down_bytes / inside)
    return SecureRow(
        organisations=number,
        least=plan.least_participants,
        lost=table.lost,
        coordinates=size,
        word_bytes=plan.word_bytes,
        keys_s=own[KEYS] / number,
        shares_s=own[SHARES] / number,
        noise_s=own["noise"] / min(DRAWING, inside),
        masks_s=own["masks"] / inside,
        opening_s=own["opening"] / inside,
        packing_s=(own[MASKED] - own["noise"] - own["masks"] - own["opening"]) / inside,
        unmask_s=own[UNMASK] / inside,
        disk_s=clock.disk_s / number,
        server_shares_s=own["server", KEYS] + own["server", SHARES] + own["server", MASKED],
        server_vectors_s=own["server", UNMASK],
        server_unmask_s=max(0.0, own["server", "last"] - decode_s),
        server_decode_s=decode_s,
        up_bytes=up,
        down_bytes=down,
        up_ratio=up / (4 * size),
        stream_mb_per_s=4e-6 * size / stream_s,
        masks_mb_per_s=4e-6 * size * inside / own["masks"],
        peak_mb=peak.anonymous_mb,
    )


@dataclass
class _Clock:
    """Seconds of the processor by what they went into, and wall seconds of organisations' files."""

    seconds: dict[object, float] = field(default_factory=lambda: defaultdict(float))
    disk_s: float = 0.0
    since: float = 0.0

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        started = time.thread_time()
        yield
        self.seconds[what] += time.thread_time() - started

    @contextmanager
    def house(self, phase: str) -> Iterator[None]:
        """The block is an organisation's; what went before it in a phase is the server's."""
        self.server_ends(phase)
        waited = stage_seconds().get("files", 0.0)
        with self.timed(phase):
            yield
        self.disk_s += stage_seconds().get("files", 0.0) - waited
        self.server_begins()

    def server_begins(self) -> None:
        self.since = time.thread_time()

    def server_ends(self, phase: str) -> None:
        self.seconds["server", phase] += time.thread_time() - self.since


class _Table(ClientApp):
    """All organisations, round one table: each has its own key and session.

    Args:
        folder: of their files.
        number: of organisations.
        size: coordinates.
        lost: how many of them send no vector.
        clock: of what they do.
    """

    def __init__(self, folder: Path, number: int, size: int, lost: int, clock: _Clock) -> None:
        super().__init__()
        keys = [SigningKey.load_or_create(folder / f"{n}.pem") for n in range(number)]
        self._sessions = [Session(folder / f"{n}.json", key) for n, key in enumerate(keys)]
        self._clock = clock
        self._random = from_operating_system()
        self.lost = lost
        self.expected: Words = np.zeros(size, dtype=np.uint64)
        self.up_bytes = self.down_bytes = 0

    def __call__(self, message: Message, context: Context) -> Message:
        """An organisation's answer; none to the request for its vector where it is lost."""
        place = int(str(context.node_config["partition-id"]))
        phase = PHASE_OF.get(message.metadata.message_type, (MASKED, ""))[0]
        away = place >= len(self._sessions) - self.lost
        if away and phase == MASKED:
            return Message(Error(FAILED, "lost"), reply_to=message)
        with self._clock.house(phase):
            answer = self._answered(place, phase, message)
        if not away:
            self.down_bytes += _bytes(message.content)
            self.up_bytes += _bytes(answer)
        return Message(answer, reply_to=message)

    def _answered(self, place: int, phase: str, message: Message) -> RecordDict:
        request = parse_request(from_records(message.content, "request"))
        if request.plan is None or not genuine(message.metadata.message_type, request):
            raise FederationError("the measurement's own request is not genuine")
        arrays = self._arrays(place, phase, request, request.plan)
        # For the ledger, and by the guard before it leaves.
        for _ in range(2):
            arrays_sha256(arrays)
        node = message.metadata.dst_node_id
        reply = Reply(f"house {node}", USERS, request.round, arrays)
        return to_records(reply_parcel(reply), "reply")

    def _arrays(self, place: int, phase: str, request: Request, plan: PrivacyPlan) -> Arrays:
        session, trust = self._sessions[place], TrustRules()
        if phase == KEYS:
            return dict(session.announce(request, plan, MECHANISM, trust, _refused))
        if phase == SHARES:
            return dict(session.deal(request, plan, MECHANISM, trust, _refused))
        if phase == UNMASK:
            return dict(session.unmask(request, plan, MECHANISM, True, _refused))
        with self._clock.timed("opening"):
            session.admit(request, plan, MECHANISM, _refused)
        # The adapter that an intent names.
        arrays_sha256(request.payload)
        words = self._words(place, plan.mechanism(MECHANISM))
        self.expected += words
        with self._clock.timed("masks"):
            return dict(session.masked(words, plan.word_bytes))

    def _words(self, place: int, mechanism: Mechanism) -> Words:
        size = len(self.expected)
        if place >= DRAWING:
            return np.zeros(size, dtype=np.uint64)
        with self._clock.timed("noise"):
            noised = mechanism.noised(np.zeros(size), self._random)
            return to_words(noised, mechanism.sensitivity, mechanism.grid_bits)


def _numbers(words: Words, plan: PrivacyPlan) -> npt.NDArray[np.float64]:
    mechanism = plan.mechanism(MECHANISM)
    return from_words(words, plan.word_bytes, mechanism.sensitivity, mechanism.grid_bits)


def _refused(rule: str, sentence: str) -> RefusedError:
    return RefusedError(f"[{rule}] {sentence}")


def _bytes(content: RecordDict) -> int:
    """Of arrays with their headers, and of fields; Flower's own framing is not counted."""
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            total += sum(len(name) + len(str(value)) for name, value in record.items())
    return total


def _seconds(act: Callable[[], object]) -> float:
    """Mean seconds of the processor, after once that is not counted."""
    act()
    times, started = 0, time.thread_time()
    while (passed := time.thread_time() - started) < LEAST_S or not times:
        act()
        times += 1
    return passed / times
