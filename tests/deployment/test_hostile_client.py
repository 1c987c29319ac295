"""An organisation that answers with what no honest one could: refused, and the round goes on."""

import numpy as np
import pytest
from lab.federation import Federation
from lab.stand_in import spoiling

from shared.wire import Parcel

pytestmark = pytest.mark.slow


def spoil(number: int, update: Parcel) -> Parcel:
    """Not a number in round 1, far too long in round 2, another shape in round 3."""
    name = sorted(update.arrays)[0]
    value = update.arrays[name]
    worse = {1: np.full_like(value, np.nan), 2: value + np.float32(1e6), 3: value[:-1]}
    return Parcel(update.fields, {**update.arrays, name: worse[number]})


def test_updates_that_cannot_be_are_refused_and_the_rounds_go_on_without_them(
    federation: Federation,
) -> None:
    tools = federation.houses["tools"]
    tools.node_process.terminate()
    socket = tools.folder / "spoiling.sock"
    with spoiling(tools.socket, socket, spoil):
        tools.start_node(federation.address, "--socket", str(socket))
        run = federation.run("training.rounds=3")
        status = run.finish()
        # Before anything is asserted: the tests after this one want its own agent back.
        tools.node_process.terminate()
    assert status == 0, run.said()
    assert run.rounds() == {1: 2, 2: 2, 3: 2}
    refused = run.events("refused")
    assert [(each["round"], each["organisation"]) for each in refused] == [
        (1, "tools"),
        (2, "tools"),
        (3, "tools"),
    ]
    reasons = [each["reason"] for each in refused]
    assert "not finite" in reasons[0]
    assert "is possible" in reasons[1]
    assert "float32 (15, 2), expected float32 (16, 2)" in reasons[2]
    # Its own ledger is as true as the others': what the agent released was paid for.
    federation.sound(run)
    assert len(tools.releases(run.name)) == 3
