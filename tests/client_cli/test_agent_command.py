"""``tacit client agent`` as a process: check sees it, it takes up approvals, and it ends."""

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.approval import approve
from client.courier import SocketAgent
from client.settings import AgentSettings, settings_path
from client.two_users import agent_answers
from shared.errors import RefusedError
from shared.wire import Parcel

pytestmark = pytest.mark.slow

WAIT_S = 90.0


def until_it_listens(made: Any, process: "subprocess.Popen[str]") -> Path:
    """Path of the agent's socket, once somebody listens there."""
    path: Path = made.node / "agent.sock"
    settings = AgentSettings.load(settings_path(made.org))
    deadline = time.monotonic() + WAIT_S
    # Its version may differ from this process's while somebody edits the code.
    while "no agent answers" in agent_answers(made.org, settings).sentence:
        assert process.poll() is None, "the agent has ended"
        assert time.monotonic() < deadline, "the agent does not listen"
        time.sleep(0.2)
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_listens_says_so_with_the_time_and_ends_without_a_socket_left(
    start_tacit: Callable[..., "subprocess.Popen[str]"],
    made: Any,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    process = start_tacit("client", "agent", str(made.org))
    path = until_it_listens(made, process)
    process.send_signal(number)
    assert process.wait(WAIT_S) == 0
    assert not path.exists()
    said = (tmp_path / "process-0.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\dT\S+ INFO client.service: House listens at ", said)


def test_a_socket_that_a_killed_agent_left_is_seen_as_dead_and_taken(
    start_tacit: Callable[..., "subprocess.Popen[str]"], made: Any
) -> None:
    process = start_tacit("client", "agent", str(made.org))
    path = until_it_listens(made, process)
    process.kill()
    process.wait(WAIT_S)
    assert path.exists()
    settings = AgentSettings.load(settings_path(made.org))
    assert "no agent answers" in agent_answers(made.org, settings).sentence
    until_it_listens(made, start_tacit("client", "agent", str(made.org)))


def test_an_approval_is_taken_up_without_a_new_start(
    start_tacit: Callable[..., "subprocess.Popen[str]"], made: Any
) -> None:
    process = start_tacit("client", "agent", str(made.org))
    asked = SocketAgent(until_it_listens(made, process), WAIT_S)
    approve(made.org, ["ab" * 32], [])
    # Unsigned, so it is refused; but under the new policy, and the agent goes on.
    with pytest.raises(RefusedError, match="House refuses"):
        asked.ask("query.join", Parcel({}, {}))
    assert process.poll() is None


def test_another_version_and_another_organisations_agent_are_told(
    start_tacit: Callable[..., "subprocess.Popen[str]"], made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start_tacit("client", "agent", str(made.org))
    until_it_listens(made, process)
    monkeypatch.setattr("client.two_users.code_version", lambda: "tacit of tomorrow")
    outcome = agent_answers(made.org, AgentSettings.load(settings_path(made.org)))
    assert (outcome.state, outcome.cure) == ("warning", "restart it")
    policy = made.org / "policy.toml"
    policy.write_text(policy.read_text().replace('name = "House"', 'name = "Other"'))
    outcome = agent_answers(made.org, AgentSettings.load(settings_path(made.org)))
    assert outcome.state == "failed"
    assert "is House's, not Other's" in outcome.sentence
