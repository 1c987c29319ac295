"""An agent killed at any stage of a release: nothing is spent twice, nothing is lost, all sound."""

import signal
from collections.abc import Callable

import pytest
from safetensors.numpy import load_file

from shared import messages
from shared.errors import FederationError, RefusedError
from tests.agent.house import House, Server, reply_of

# Where it is killed: how often it has spent then, and whether the request is answered afterwards.
STAGES = {
    "before-the-intent": (0, True),
    "after-the-intent": (1, False),
    "after-computing": (1, False),
    "after-keeping-the-answer": (1, True),
    "after-recording-the-release": (1, True),
    "before-the-reply-leaves": (1, True),
}


@pytest.mark.parametrize("kind", [messages.POPULARITY, messages.TRAIN])
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_agent_starts_again_with_a_sound_ledger_and_spends_nothing_twice(
    house: House, server: Server, stage: str, kind: str
) -> None:
    spent, answered = STAGES[stage]
    number = 1 if kind == messages.TRAIN else 0
    delivered = server.request(messages.DELIVER_STATISTICS)
    with house.agent():
        house.access().ask(messages.DELIVER_STATISTICS, delivered)
    request = server.request(kind, number)
    with house.agent(stage) as process:
        with pytest.raises(FederationError, match="does not answer"):
            house.access().ask(kind, request)
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
    # ``entries`` checks the chain.
    assert len(house.intents()) == spent
    name = "popularity" if kind == messages.POPULARITY else "step"
    kept = house.directory / "answers" / f"{name}.safetensors"
    stored = load_file(kept) if kept.exists() else None
    with house.agent():
        if answered:
            reply = reply_of(house.access().ask(kind, request))
            if stored is not None:
                assert {n: v.tobytes() for n, v in reply.arrays.items()} == {
                    n: v.tobytes() for n, v in stored.items()
                }
            again = reply_of(house.access().ask(kind, request))
            assert {n: v.tobytes() for n, v in again.arrays.items()} == {
                n: v.tobytes() for n, v in reply.arrays.items()
            }
        else:
            for _ in range(2):
                with pytest.raises(RefusedError, match="has spent its budget already"):
                    house.access().ask(kind, request)
        # The run goes on.
        if kind == messages.TRAIN:
            assert reply_of(house.access().ask(kind, server.request(kind, 2))).arrays
    assert len(house.intents()) == 1 + (kind == messages.TRAIN)
    assert len(house.releases()) == answered + (kind == messages.TRAIN)
    if kind == messages.POPULARITY:
        assert house.computed() == (0 if stage == "after-the-intent" else 1)


def test_a_kill_in_the_middle_of_the_computation_counts_as_spent(
    house: House, server: Server
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from tests.agent.house import wait_for

    (house.directory / "hold").touch()
    request = server.request(messages.POPULARITY)
    with house.agent() as process, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(house.access().ask, messages.POPULARITY, request)
        wait_for(house.directory / "computed")
        process.kill()
        with pytest.raises(FederationError, match="does not answer"):
            asked.result()
    (house.directory / "hold").unlink()
    assert len(house.intents()) == 1
    with house.agent(), pytest.raises(RefusedError, match="has spent its budget already"):
        house.access().ask(messages.POPULARITY, request)
    assert house.computed() == 1


def test_a_kill_while_a_delivery_is_taken_leaves_the_earlier_one_whole(
    make_house: Callable[..., House], server: Server
) -> None:
    house = make_house()
    with house.agent():
        for kind, number in ((messages.DELIVER_STATISTICS, 0), (messages.DELIVER_ADAPTER, 1)):
            house.access().ask(kind, server.request(kind, number))
    with house.agent("before-the-reply-leaves") as process:
        request = server.request(messages.DELIVER_ADAPTER, 2)
        with pytest.raises(FederationError, match="does not answer"):
            house.access().ask(messages.DELIVER_ADAPTER, request)
        process.join(30)
    assert load_file(house.directory / "delivered" / "adapter" / "adapter_model.safetensors")
    with house.agent():
        evaluated = house.access().ask(messages.EVALUATE, server.request(messages.EVALUATE, 4))
        assert reply_of(evaluated).arrays
