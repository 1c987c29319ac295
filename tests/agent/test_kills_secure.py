"""An agent killed in any phase of a secure sum: the sum comes out, and no intent counts twice."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

import client.app
from audit.bundle import read_evidence
from audit.heads import read_heads
from audit.verify import verify_ledger
from client.approval import public_key
from client.courier import SocketAgent
from client.gate import Gate
from client.organisation import Organisation
from server import exchange
from server.heads import HeadBook
from server.inquiry import Inquiry
from server.secure import SecureSum, SecureSums
from shared import messages
from shared.config import ServerSection, parse_config
from shared.entries import Release
from shared.errors import FederationError, UnreachableError
from shared.models import load_model
from shared.plan import PrivacyPlan, make_plan
from shared.settings import shared_settings
from shared.splits import split
from shared.statistics import popularity_sum
from shared.wire import AgentAccess, Parcel
from simulations.engine import InProcessGrid
from tests.agent.conftest import run_values
from tests.agent.house import DECLARED, ITEMS, House, Server, catalogue, histories

MakeHouse = Callable[..., House]

# Where an agent is killed, and whether its masked vector is lost: it has spent, and has no answer.
STAGES = {
    "keys-asked": False,
    "keys-kept": False,
    "keys-recorded": False,
    "shares-asked": False,
    "shares-kept": False,
    "shares-recorded": False,
    "masked-admitted": False,
    "before-the-intent": False,
    "after-the-intent": True,
    "after-computing": True,
    "after-keeping-the-answer": False,
    "after-recording-the-release": False,
    "masked-leaving": False,
    "unmask-asked": False,
    "unmask-kept": False,
    "unmask-recorded": False,
}
# Six standard deviations; what is left of a mask is a million times as much.
FAR = 6.0


class Mortal:
    """The way to an agent that is killed once, and is started again as by a supervisor.

    Args:
        house: of the organisation.
        failpoint: where it is killed; empty: nowhere.
    """

    def __init__(self, house: House, failpoint: str) -> None:
        self.house = house
        self.killed = 0
        self._process: BaseProcess = house.start(failpoint)
        house.wait_until_ready(self._process)

    def ask(self, kind: str, request: Parcel) -> Parcel:
        try:
            return SocketAgent(self.house.socket, 120.0).ask(kind, request)
        except UnreachableError:
            self._process.join(30)
            assert self._process.exitcode == -signal.SIGKILL
            self.killed += 1
            self._process = self.house.start()
            self.house.wait_until_ready(self._process)
            raise

    def close(self) -> None:
        self._process.kill()
        self._process.join(30)


@dataclass
class Federation:
    """Organisations that add up under a server.

    Attributes:
        houses: of the organisations; the first one's agent is in another process.
        ways: to their agents.
        sums: of the server.
        book: the server's memory of ledgers.
        plan: of the run.
        server: makes what its requests carry.
    """

    houses: list[House]
    ways: list[AgentAccess]
    sums: SecureSums
    book: HeadBook
    plan: PrivacyPlan
    server: Server
    grid: InProcessGrid = field(init=False)

    def __post_init__(self) -> None:
        self.grid = InProcessGrid(client.app.app, {}, len(self.houses))

    def popularity(self) -> SecureSum:
        return self.sums.total(self.grid, "popularity", {}, 0)

    def step(self, number: int) -> SecureSum:
        adapter = self.server.adapter()
        size = sum(value.size for value in adapter.values())
        return self.sums.total(self.grid, "step", adapter, number, size, repeat=False)

    def sound(self) -> None:
        """No fault in any ledger, in the server's eyes too."""
        seen = read_heads(self.book.path)
        for house in self.houses:
            found = verify_ledger(read_evidence(house.directory), heads=seen)
            assert not found.faults, (house.directory.name, found.faults)


MakeFederation = Callable[..., Federation]


@pytest.fixture
def make_federation(
    base: Path, make_house: MakeHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeFederation]:
    """Organisations that have approved a server and one another."""
    monkeypatch.setattr(exchange, "PAUSE_S", 0.0)
    monkeypatch.setattr(exchange, "POLL_S", 0.01)
    with ExitStack() as stack:

        def make(failpoint: str, number: int = 3, dropouts: int = 0) -> Federation:
            values = run_values(base)
            values["partition"] = {"organisations": number}
            values["privacy"] |= {"epsilon": 8.0}
            values["aggregation"] = {"mode": "secure", "dropouts": dropouts}
            config = parse_config(values, "test")
            plan = make_plan(config, DECLARED * number, number)
            book = HeadBook(tmp_path / "federation")
            houses = [
                make_house(
                    f"house{place}",
                    organisation={"name": f"house {place}"},
                    budget={"epsilon": 45.0},
                    mechanism={
                        "noise": "shared",
                        "distribution": ("discrete",),
                        "least_noise_share": (number - dropouts - 1) ** -0.5,
                    },
                    federations={"allowed": (book.key.public,)},
                    trust={"binds": "joint", "least_participants": number - dropouts},
                )
                for place in range(number)
            ]
            for house in houses:
                with closing(Organisation(house.directory)):
                    # Opened once, it has a key and a ledger.
                    house.amend(trust={"members": tuple(public_key(h.directory) for h in houses)})
            mortal = stack.enter_context(closing(Mortal(houses[0], failpoint)))
            others = [
                Gate(stack.enter_context(closing(Organisation(house.directory))))
                for house in houses[1:]
            ]
            ways: list[AgentAccess] = [mortal, *others]
            monkeypatch.setattr(
                client.app, "agent_of", lambda context: ways[context.node_config["partition-id"]]
            )
            loaded = load_model(config)
            options = ServerSection(min_replies=number - dropouts, round_timeout_s=120.0)
            inquiry = Inquiry("run", loaded.sha256, options, book, shared_settings(config))
            federation = Federation(
                houses,
                ways,
                SecureSums(inquiry, plan),
                book,
                plan,
                Server(config, plan, loaded, book.key),
            )
            inquiry.join(federation.grid)
            inquiry.plan = plan
            inquiry.ask(federation.grid, messages.PLAN, {})
            return federation

        yield make


def truth(houses: list[House]) -> npt.NDArray[np.float64]:
    """The sum of the popularity of all, in the order of the keys; training never saw the last."""
    order = np.argsort(catalogue().key_hashes)
    seen = split(histories(), "leave-one-out", "test").train
    return len(houses) * popularity_sum(seen, ITEMS)[order]


def mortal_of(federation: Federation) -> Mortal:
    way = federation.ways[0]
    assert isinstance(way, Mortal)
    return way


@pytest.mark.parametrize("stage", STAGES)
def test_the_sum_of_three_comes_out_and_only_a_vector_that_has_left_counts_again(
    make_federation: MakeFederation, stage: str
) -> None:
    federation = make_federation(stage)
    found = federation.popularity()
    assert mortal_of(federation).killed == 1
    assert found.names == ("house 0", "house 1", "house 2")
    assert np.abs(found.values - truth(federation.houses)).max() < FAR * found.deviation
    # Without the third no sum of this attempt can be unmasked: all make another one.
    requests = ["run/0/popularity", "run/0/popularity/1"] if STAGES[stage] else ["run/0/popularity"]
    for place, house in enumerate(federation.houses):
        assert len(house.intents()) == len(requests)
        left = [r for r in house.entries(Release) if r.mechanism == "popularity"]
        assert len(left) == len(requests) - (STAGES[stage] and place == 0)
    federation.sound()


@pytest.mark.parametrize("stage", ["after-the-intent", "unmask-asked", "shares-kept"])
def test_one_of_four_may_be_lost_without_another_attempt(
    make_federation: MakeFederation, stage: str
) -> None:
    federation = make_federation(stage, number=4, dropouts=1)
    found = federation.popularity()
    lost = STAGES[stage]
    assert len(found.names) == 4 - lost
    assert ("house 0" in found.names) is not lost
    counted = federation.houses[lost:]
    assert np.abs(found.values - truth(counted)).max() < FAR * found.deviation
    assert [len(house.intents()) for house in federation.houses] == [1, 1, 1, 1]
    federation.sound()


def test_a_round_whose_masked_vector_is_lost_is_not_repeated_and_the_next_one_counts(
    make_federation: MakeFederation,
) -> None:
    federation = make_federation("after-the-intent")
    statistics = federation.server.arrays_for(messages.DELIVER_STATISTICS)
    federation.sums.inquiry.deliver_statistics(federation.grid, statistics)
    with pytest.raises(FederationError, match="2 organisations sent a masked vector"):
        federation.step(1)
    assert len(federation.step(2).names) == 3
    for house in federation.houses:
        assert [intent.round for intent in house.intents()] == [1, 2]
    federation.sound()


@pytest.mark.parametrize("stage", ["masked-leaving", "after-keeping-the-answer"])
def test_a_stored_masked_vector_is_the_same_to_the_byte(
    make_federation: MakeFederation, stage: str
) -> None:
    seen: list[bytes] = []
    federation = make_federation(stage)
    mortal = mortal_of(federation)
    ask = mortal.ask

    def overheard(kind: str, request: Parcel) -> Parcel:
        reply = ask(kind, request)
        if kind == messages.POPULARITY:
            seen.append(reply.arrays["masked"].tobytes())
        return reply

    mortal.ask = overheard  # type: ignore[method-assign]
    federation.popularity()
    stored = load_file(mortal.house.directory / "answers" / "popularity.safetensors")
    assert seen == [stored["masked"].tobytes()]
    assert mortal.house.computed() == 1
