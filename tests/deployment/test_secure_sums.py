"""Four organisations add up in secret over a real deployment; one is killed in each phase."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.federation import Federation, Run, finished
from lab.goods import Shop
from lab.house import House
from lab.network import Network, missing_permission
from lab.processes import Lab, held, wait_until

# Every message starts a courier at each of four organisations: minutes, where others work too.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# The first trains long enough to be hit; two have goods in common.
SHOPS = {
    "north": Shop("films", 3000),
    "south": Shop("films", 60),
    "east": Shop("books", 50),
    "west": Shop("tools", 40),
}
FEWEST = 3


@pytest.fixture(scope="module")
def allied(folder: Path) -> Iterator[Federation]:
    """Organisations whose policies ask for secure sums, of which one may be lost."""
    if reason := missing_permission():
        pytest.skip(reason)
    place = folder / "allied"
    place.mkdir()
    place.chmod(0o711)
    lab = Lab(f"{os.getpid()}-{os.urandom(4).hex()}", place / "logs")
    network = Network(f"tacit-{os.getpid()}s")
    try:
        network.make()
        made = Federation(lab, network, network.add("link"), place, quick=True, dropouts=1)
        made.make()
        made.join(SHOPS)
        yield made
    finally:
        lab.end_all()
        network.remove()


def recorded(house: House, request: str) -> bool:
    """Whether a request has been answered, on record."""
    return any(name == request for name, _ in house.entries())


def kill_after(house: House, run: Run, after: str) -> None:
    """Stop the agent as soon as a request is on record, and kill it when another waits for it."""
    run.wait_until(lambda: recorded(house, f"{run.name}/{after}"), f"record of {after}")
    held(house.agent_process.pid)
    wait_until(house.couriers, "a courier stands at the door")
    house.agent_process.kill()
    house.start_agent()
    house.agent_ready()


def test_a_whole_run_of_secure_sums_ends_and_each_organisation_counts_once(
    allied: Federation,
) -> None:
    run = allied.run("training.rounds=1", adapter_alone=False)
    run.wait_for("statistics")
    run.wait_for_round(1)
    assert run.finish() == 0, run.said()
    assert run.rounds() == {1: 4}
    expected = [(0, "popularity"), (0, "cooccurrence"), (1, "step")]
    keys = tuple(sorted(house.key for house in allied.houses.values()))
    final = (run.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for house in allied.houses.values():
        intents = house.intents(run.name)
        assert [(intent.round, intent.mechanism) for intent in intents] == expected
        assert {(i.aggregation, i.least_participants, i.participants) for i in intents} == {
            ("secure", FEWEST, keys)
        }
        assert {round(intent.noise_share, 6) for intent in intents} == {0.707107}
        assert house.delivered_adapter() == final
    allied.sound(run)


def test_the_server_tells_the_keys_that_it_has_met_and_check_tells_ones_own(
    allied: Federation,
) -> None:
    lines = allied.done("members", "server", "members", str(allied.fed)).splitlines()
    assert lines == [f"{name}\t{allied.houses[name].key}" for name in sorted(SHOPS)]
    north = allied.houses["north"]
    started = north.tacit("check", "client", "check", str(north.org), "--quick", "--json")
    started.wait()
    (found,) = [one for one in json.loads(started.text()) if one["name"] == "secure sums"]
    assert found["state"] == "ok"
    assert north.key in found["sentence"]


def test_an_agent_that_is_killed_in_each_phase_goes_on_or_is_left_out(allied: Federation) -> None:
    north = allied.houses["north"]
    run = allied.run("training.rounds=4", "server.round_timeout_s=200.0")
    # Before its keys, before its shares, before its masked vector, before it unmasks.
    for after in ("0/deliver_statistics", "1/keys_step", "2/shares_step", "2/step"):
        kill_after(north, run, after)
    # After the intent and before the masked vector: spent, lost, and the others go on.
    run.wait_until(
        lambda: 3 in [intent.round for intent in north.intents(run.name)], "intent of round 3"
    )
    held(north.agent_process.pid)
    assert f"{run.name}/3/step" not in [request for request, _ in north.releases(run.name)]
    north.agent_process.kill()
    north.start_agent()
    run.wait_for_round(3)
    run.wait_for_round(4)
    assert run.finish() == 0, run.said()
    replies = run.rounds()
    # Whoever is not back within seconds is left out, too.
    assert replies[1] >= FEWEST
    assert replies[2] >= FEWEST
    assert (replies[3], replies[4]) == (FEWEST, 4)
    for house in allied.houses.values():
        assert [intent.round for intent in house.intents(run.name)] == [1, 2, 3, 4]
    assert any("has spent its budget already" in r.sentence for _, r in north.refusals(run.name))
    allied.sound(run)
    finished(north.tacit("verify", "audit", "verify", str(north.org)))
