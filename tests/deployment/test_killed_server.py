"""ServerApp and SuperLink killed in the middle of a run, which --resume brings to its end."""

import signal

import pytest
from lab.federation import Federation, Run
from lab.processes import send, wait_until

pytestmark = pytest.mark.slow


def spent(federation: Federation, run: Run) -> dict[str, list[tuple[int, str]]]:
    """Round and mechanism of each intent of a run, by house."""
    return {
        name: [(intent.round, intent.mechanism) for intent in house.intents(run.name)]
        for name, house in federation.houses.items()
    }


def whole(federation: Federation, run: Run, rounds: int) -> None:
    """The run ended well, every house spent once a round, and all hold the run's adapter."""
    assert set(run.rounds()) == set(range(1, rounds + 1))
    for name, found in spent(federation, run).items():
        assert found == [(number, "step") for number in range(1, rounds + 1)], name
    final = (run.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for house in federation.houses.values():
        assert house.delivered_adapter() == final
        assert not list(house.org.rglob("*.part")), "half a file"
    assert not list(run.folder.rglob("*.part")), "half a file"
    federation.sound(run)


def test_a_run_whose_serverapp_was_killed_is_resumed_without_a_second_spending(
    federation: Federation,
) -> None:
    run = federation.run("training.rounds=4")
    run.wait_for_round(1)
    films = federation.houses["films"]
    # In round 2, with an intent on record and no answer at the server.
    run.wait_until(lambda: len(films.intents(run.name)) == 2, "intents of round 2")
    for process in federation.server_apps():
        send(process, signal.SIGKILL)
    refused = federation.resume(run)
    assert refused.finish() == 2
    assert "is still running" in refused.said()
    federation.stop_runs()
    assert run.finish() == 1
    assert run.rounds() == {1: 3}
    before = spent(federation, run)
    resumed = federation.resume(run)
    assert resumed.finish() == 0, resumed.said()
    assert all(found[:2] == before[name][:2] for name, found in spent(federation, run).items())
    whole(federation, resumed, 4)


def test_a_superlink_that_is_killed_comes_back_on_its_database_and_the_run_is_resumed(
    federation: Federation,
) -> None:
    run = federation.run("training.rounds=4")
    run.wait_for_round(2)
    numbers = {name: house.node_number() for name, house in federation.houses.items()}
    federation.kill_superlink()
    wait_until(lambda: not federation.server_apps(), "its ServerApp ended")
    federation.start_superlink()
    federation.stop_runs()
    assert run.finish() == 1
    assert "Run finished" not in run.said()
    for name, house in federation.houses.items():
        wait_until(house.node_settled, f"the SuperNode of {name} is in")
    resumed = federation.resume(run)
    assert resumed.finish() == 0, resumed.said()
    for name, house in federation.houses.items():
        # Nobody started one again, and each is known under the number that it had.
        assert house.node_process.running
        assert house.node_number() == numbers[name]
    assert set(federation.nodes().values()) == {"online"}
    whole(federation, resumed, 4)
