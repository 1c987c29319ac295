"""The way to a SuperLink: what is in the way is told apart, each with its own sentence."""

import datetime
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.link import Link, clock, first_look, link_outcomes, reach, secure
from client.node import free_port
from shared.errors import ConfigError, RunError

Tacit = Callable[..., Any]
DAY = datetime.timedelta(days=1)


def link(port: int, roots: Path) -> Link:
    return Link(f"127.0.0.1:{port}", roots)


def test_a_closed_port_is_told_and_ends_the_questions(authority: Any, made: Any) -> None:
    found = list(link_outcomes(link(free_port(), authority.path), made.node))
    assert [(one.name, one.state) for one in found] == [("SuperLink", "failed")]
    assert "cannot be reached" in found[0].sentence


def test_a_good_certificate_and_clock_pass(serve_tls: Callable[..., int], authority: Any) -> None:
    to = link(serve_tls(), authority.path)
    assert [reach(to).state, secure(to).state, clock(to).state] == ["ok", "ok", "ok"]
    assert "(99 days)" in secure(to).sentence


def test_a_wrong_authority_is_told(serve_tls: Callable[..., int], other_authority: Any) -> None:
    outcome = secure(link(serve_tls(), other_authority.path))
    assert outcome.state == "failed"
    assert f"was not signed by {other_authority.path}" in outcome.sentence
    assert "ca.crt" in outcome.cure


def test_an_expired_certificate_is_told(serve_tls: Callable[..., int], authority: Any) -> None:
    port = serve_tls(starts=-30 * DAY, ends=-DAY)
    outcome = secure(link(port, authority.path))
    assert outcome.state == "failed"
    assert "has expired" in outcome.sentence
    assert "--renew" in outcome.cure


def test_a_certificate_of_the_future_points_to_the_clock(
    serve_tls: Callable[..., int], authority: Any
) -> None:
    outcome = secure(link(serve_tls(starts=DAY), authority.path))
    assert outcome.state == "failed"
    assert "not valid yet" in outcome.sentence
    assert "clock" in outcome.cure


def test_a_certificate_of_another_host_is_told(
    serve_tls: Callable[..., int], authority: Any
) -> None:
    outcome = secure(link(serve_tls(host="192.0.2.1"), authority.path))
    assert outcome.state == "failed"
    assert "made for other names than 127.0.0.1" in outcome.sentence


def test_a_certificate_that_ends_soon_is_warned_of(
    serve_tls: Callable[..., int], authority: Any
) -> None:
    outcome = secure(link(serve_tls(ends=13 * DAY), authority.path))
    assert outcome.state == "warning"
    assert "ends in 12 days" in outcome.sentence


def test_a_server_without_tls_is_told(authority: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(10)
        port = plain.getsockname()[1]

        def answer() -> None:
            connection, _ = plain.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        outcome = secure(link(port, authority.path))
        thread.join()
    assert outcome.state == "failed"
    assert "does not speak TLS" in outcome.sentence


@pytest.mark.parametrize("content", [None, "no certificate at all"])
def test_a_file_without_certificates_is_told(
    serve_tls: Callable[..., int], tmp_path: Path, content: str | None
) -> None:
    roots = tmp_path / "roots.crt"
    if content is not None:
        roots.write_text(content)
    outcome = secure(link(serve_tls(), roots))
    assert outcome.state == "failed"
    assert str(roots) in outcome.sentence
    assert outcome.cure == "ask the federation for its ca.crt"


@pytest.mark.parametrize(
    ("there", "state"), [(-20, "failed"), (0, "ok"), (20, "warning"), (90, "failed")]
)
def test_a_clock_that_differs_is_told(
    serve_tls: Callable[..., int], authority: Any, there: float, state: str
) -> None:
    """Flower forgives being late by minutes, and being early by seconds only."""
    outcome = clock(link(serve_tls(seconds_ahead=there), authority.path))
    assert outcome.state == state
    if there:
        assert ("ahead" if there < 0 else "behind") in outcome.sentence


@pytest.mark.parametrize("address", ["", "host", "host:", ":9092", "host:port", "host:9092/x"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        reach(Link(address, tmp_path / "ca.crt"))


def test_an_ipv6_address_is_understood(tmp_path: Path) -> None:
    to = Link("[::1]:9092", tmp_path / "ca.crt")
    assert (to.host, to.port) == ("::1", 9092)


def test_a_node_does_not_start_towards_a_stranger(
    tacit: Tacit, serve_tls: Callable[..., int], other_authority: Any, made: Any
) -> None:
    address = f"127.0.0.1:{serve_tls()}"
    roots = str(other_authority.path)
    done = tacit(
        "client", "node", str(made.node), "--superlink", address, "--root-certificates", roots
    )
    assert done.status == 2
    assert "was not signed by" in done.err
    assert "client.supernode" not in done.err


def test_a_node_may_start_while_the_superlink_is_down(authority: Any, made: Any) -> None:
    found = first_look(link(free_port(), authority.path), made.node)
    assert [one.state for one in found] == ["failed"]


def test_a_node_without_a_key_does_not_start(authority: Any, made: Any) -> None:
    (made.node / "key").unlink()
    with pytest.raises(RunError, match="tacit client init makes it"):
        first_look(link(free_port(), authority.path), made.node)


def test_the_address_and_certificates_in_the_settings_are_used(
    tacit: Tacit, serve_tls: Callable[..., int], authority: Any, made: Any
) -> None:
    settings = made.org / "agent.toml"
    text = settings.read_text().replace('address = ""', f'address = "127.0.0.1:{serve_tls()}"')
    text = text.replace('root_certificates = ""', f'root_certificates = "{authority.path}"')
    settings.write_text(text)
    done = tacit("client", "check", str(made.org), "--quick")
    assert "ok      TLS: " in done.out
