"""Three organisations with three catalogues train one adapter over a real deployment."""

from dataclasses import dataclass

import pytest
from lab.federation import TWO_USERS, Federation, Run, finished
from lab.house import House
from lab.opens import Opens
from lab.user import ids

pytestmark = pytest.mark.slow

HOUSES = ("films", "books", "tools")


@dataclass
class Trained:
    """A whole run, with statistics, and what was seen while it went.

    Attributes:
        federation: that it ran in.
        run: at its end.
        opens: how often an agent that was started for it had opened its base model: at its first
            adapter round, and at the end of the run.
        users: of the operating system whom couriers of each house ran as.
    """

    federation: Federation
    run: Run
    opens: tuple[int, int]
    users: dict[str, set[int]]


@pytest.fixture(scope="module")
def trained(joined: Federation) -> Trained:
    """The run of this module."""
    joined.heal()
    films = joined.houses["films"]
    films.agent_process.terminate()
    films.start_agent()
    films.agent_ready()
    users: dict[str, set[int]] = {name: set() for name in HOUSES}
    with Opens(films.base / "model.safetensors", films.agent_process.pid) as opens:
        run = joined.run(adapter_alone=False)

        def first_round() -> bool:
            for house in joined.houses.values():
                users[house.name] |= house.courier_users()
            return 1 in run.rounds()

        run.wait_until(first_round, "round 1 finished")
        first = opens.count()
        assert run.finish() == 0, run.said()
        return Trained(joined, run, (first, opens.count()), users)


def test_every_round_has_the_replies_of_all(trained: Trained) -> None:
    assert trained.run.rounds() == {1: 3, 2: 3, 3: 3}
    trained.federation.sound(trained.run)


def test_every_mechanism_is_spent_once_by_each(trained: Trained) -> None:
    expected = [(0, "popularity"), (0, "cooccurrence"), (1, "step"), (2, "step"), (3, "step")]
    for house in trained.federation.houses.values():
        intents = house.intents(trained.run.name)
        assert [(intent.round, intent.mechanism) for intent in intents] == expected


def test_the_adapter_reaches_all(trained: Trained) -> None:
    final = (trained.run.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for house in trained.federation.houses.values():
        assert house.delivered_adapter() == final


@pytest.mark.parametrize("name", HOUSES)
def test_each_recommends_from_its_own_catalogue(trained: Trained, name: str) -> None:
    house: House = trained.federation.houses[name]
    user = house.shop.user(0)
    said = finished(
        house.tacit("recommend", "client", "recommend", str(house.org), "--user", user, "-k", "5")
    )
    titles = house.shop.titles()
    shown = {title for title in titles if title in said}
    assert len(shown) >= 5
    assert not any(other in said for other in set(HOUSES) - {name})


def test_the_base_model_is_loaded_once_and_not_in_every_round(trained: Trained) -> None:
    first, last = trained.opens
    assert first > 0
    assert last == first


def test_the_courier_runs_as_the_supernodes_user(trained: Trained) -> None:
    assert trained.users[TWO_USERS] == {ids()[0]}
    assert trained.users["films"] == {0}
