"""The agent's socket: who may open it, who gets it, and what is left of it at the end."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.service import listen
from shared import messages
from shared.errors import RunError, TacitError
from tests.agent.house import House, Server, mode_of, reply_of, terminate, wait_for


def test_without_a_group_only_the_owner_may_connect(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with listen(path, ""):
        assert mode_of(path) == 0o600


def test_with_a_group_its_members_may_connect_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with listen(path, "daemon"):
        assert mode_of(path) == 0o660


def test_the_umask_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with listen(tmp_path / "agent.sock", ""):
            pass
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_group_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"agent\.socket_group"):
        listen(tmp_path / "agent.sock", "no-such-group-here")


def test_a_folder_made_for_the_socket_can_be_entered(tmp_path: Path) -> None:
    path = tmp_path / "run" / "tacit" / "agent.sock"
    with listen(path, ""):
        for folder in (path.parent, path.parent.parent):
            assert mode_of(folder) & 0o700 == 0o700


def test_a_file_that_is_no_socket_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("precious")
    with pytest.raises(RunError, match=str(path)):
        listen(path, "")
    assert path.read_text() == "precious"


def test_a_folder_at_the_socket_s_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=str(tmp_path)):
        listen(tmp_path, "")


def test_a_dangling_link_at_the_socket_s_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError):
        listen(path, "")
    assert path.is_symlink()


def test_a_second_agent_on_the_same_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with listen(path, ""), pytest.raises(RunError, match="listens there already"):
        listen(path, "")
    assert path.exists()


def test_a_second_agent_s_attempt_does_not_disturb_the_first(house: House, server: Server) -> None:
    with house.agent():
        second = house.start()
        second.join(60)
        assert second.exitcode not in (0, None)
        assert "is running already" in house.log()
        assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


def test_the_socket_of_a_killed_agent_is_taken_over(house: House, server: Server) -> None:
    with house.agent() as first:
        first.kill()
        first.join(30)
    assert house.socket.exists()
    with house.agent():
        assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


def test_an_agent_that_is_told_to_end_ends_well_and_removes_its_socket(house: House) -> None:
    with house.agent() as process:
        assert terminate(process) in (0, -signal.SIGTERM)
    assert not house.socket.exists()


def test_an_agent_that_is_told_to_end_finishes_the_request_in_hand(
    house: House, server: Server
) -> None:
    (house.directory / "hold").touch()
    body = server.request(messages.POPULARITY)
    from concurrent.futures import ThreadPoolExecutor

    with house.agent() as process, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(house.access().ask, messages.POPULARITY, body)
        wait_for(house.directory / "computed")
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        (house.directory / "hold").unlink()
        assert reply_of(asked.result()).arrays
        process.join(30)
        assert process.exitcode in (0, -signal.SIGTERM)
    assert len(house.releases()) == 1


def test_a_request_that_never_ends_does_not_keep_an_agent_from_ending(house: House) -> None:
    with house.agent() as process, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(house.socket))
        slow.sendall(b"POST /v1/plan HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n123")
        time.sleep(0.5)
        assert terminate(process, 20.0) is not None


def test_a_socket_s_path_that_is_too_long_is_refused_before_anything_is_opened(
    make_house: Callable[..., House], tmp_path: Path
) -> None:
    house = make_house(own={"agent": {"socket": str(tmp_path / ("s" * 200))}})
    with pytest.raises(TacitError, match=r"agent\.socket"):
        assert house.socket
