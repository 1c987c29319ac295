"""Whatever reaches the agent's socket: known statuses, no text of exceptions, no growth."""

import json
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from client.courier import KIND_HEADER
from client.gate import MOST_STRANGERS
from shared import messages
from shared.chain import countersign
from shared.errors import FederationError, RefusedError, TacitError
from shared.messages import CALLS, KINDS, LONGEST_TEXT
from shared.wire import LARGEST_HEADER_BYTES, LONGEST_REASON, METADATA, to_bytes
from tests.agent.house import House, Server, memory_bytes, reply_of, wait_for

MEBIBYTE = 1024**2
STATUSES = {400, 403, 405, 413, 500, 503}


@pytest.fixture
def limited(make_house: Callable[..., House]) -> Iterator[tuple[House, int]]:
    """An agent that takes requests of one MiB at most and waits a second; its process."""
    house = make_house(own={"agent": {"largest_request_mib": 1, "wait_s": 1.0}})
    with house.agent() as process:
        assert process.pid is not None
        yield house, process.pid


def reason(answer: httpx.Response) -> str:
    """Why not; there is nothing else in the body."""
    value = answer.json()
    assert set(value) == {"reason"}
    return str(value["reason"])


def told_no_more_than_need_be(answer: httpx.Response) -> None:
    assert answer.status_code in STATUSES
    for text in ("Traceback", "Error(", 'File "', "/tmp", ".py", "epsilon"):
        assert text not in answer.text
    assert len(answer.content) < 4 * LONGEST_REASON


def test_a_second_request_waits_for_the_first(house: House, server: Server) -> None:
    (house.directory / "hold").touch()
    with house.agent(), ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            house.access().ask, messages.POPULARITY, server.request(messages.POPULARITY)
        )
        wait_for(house.directory / "computed")
        second = pool.submit(house.access().ask, messages.JOIN, server.request(messages.JOIN))
        # Nothing that the second could do shows while the first is at work.
        with house.http() as client:
            assert client.get("/v1/health").json()["ready"]
        assert not second.done()
        (house.directory / "hold").unlink()
        released, joined = reply_of(first.result()), reply_of(second.result())
    assert released.arrays
    assert joined.head is not None
    assert released.head is not None
    assert joined.head.sequence > released.head.sequence


def test_a_request_that_waits_too_long_is_refused_with_a_reason(
    make_house: Callable[..., House], server: Server
) -> None:
    house = make_house(own={"agent": {"wait_s": 0.2}})
    (house.directory / "hold").touch()
    with house.agent(), ThreadPoolExecutor(1) as pool:
        first = pool.submit(
            house.access().ask, messages.POPULARITY, server.request(messages.POPULARITY)
        )
        wait_for(house.directory / "computed")
        with pytest.raises(FederationError, match="busy with another request"):
            house.access().ask(messages.JOIN, server.request(messages.JOIN))
        (house.directory / "hold").unlink()
        assert reply_of(first.result()).arrays
        assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


def test_the_same_request_twice_at_once_is_computed_once(house: House, server: Server) -> None:
    (house.directory / "hold").touch()
    request = server.request(messages.POPULARITY)
    with house.agent(), ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(house.access().ask, messages.POPULARITY, request) for _ in range(3)]
        wait_for(house.directory / "computed")
        (house.directory / "hold").unlink()
        given = [reply_of(future.result()).arrays["values"].tobytes() for future in asked]
    assert len(set(given)) == 1
    assert house.computed() == 1
    assert len(house.intents()) == 1


def test_a_courier_that_is_gone_before_the_answer_leaves_it_stored(
    house: House, server: Server
) -> None:
    (house.directory / "hold").touch()
    request = server.request(messages.POPULARITY)
    with house.agent():
        # Sends and hangs up, as a killed process does.
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as courier:
            courier.connect(str(house.socket))
            courier.sendall(http_of(messages.POPULARITY, to_bytes(request)))
            wait_for(house.directory / "computed")
        (house.directory / "hold").unlink()
        first = reply_of(house.access().ask(messages.POPULARITY, request))
        again = reply_of(house.access().ask(messages.POPULARITY, request))
    assert first.arrays["values"].tobytes() == again.arrays["values"].tobytes()
    assert house.computed() == 1
    assert len(house.intents()) == len(house.releases()) == 1


def http_of(kind: str, body: bytes, length: int | None = None) -> bytes:
    call = next(call for call, kinds in CALLS.items() if kind in kinds)
    head = (
        f"POST /v1/{call} HTTP/1.1\r\nhost: agent\r\n{KIND_HEADER}: {kind}\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def test_too_large_a_request_is_refused_while_it_still_comes(
    limited: tuple[House, int], server: Server
) -> None:
    house, pid = limited
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += MEBIBYTE
            yield bytes(MEBIBYTE)

    before = memory_bytes(pid)
    with house.http() as client:
        answer = client.post("/v1/train", content=endless(), headers={KIND_HEADER: messages.TRAIN})
        assert answer.status_code == 413
        assert "larger than" in reason(answer)
    assert memory_bytes(pid) - before < 40 * MEBIBYTE
    assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


def header(value: Any, length: int | None = None) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "seven-bytes": b"\0" * 7,
    "zeros": bytes(100),
    "text": b"give me the histories",
    "header-longer-than-the-body": header({}, 1000),
    "header-longer-than-allowed": header({}, LARGEST_HEADER_BYTES + 1),
    "header-of-all-bits": b"\xff" * 64,
    "no-metadata": header({}),
    "metadata-is-text": header({"__metadata__": "fields"}),
    "metadata-is-null": header({"__metadata__": None}),
    "header-is-a-list": header([1, 2]),
    "header-nests-deep": header(b"[" * 100_000),
    "fields-nest-deep": header({"__metadata__": {METADATA: "[" * 100_000}}),
    "fields-are-a-list": header({"__metadata__": {METADATA: "[]"}}),
    "fields-hold-a-float": header({"__metadata__": {METADATA: '{"run": 1.5}'}}),
    "fields-hold-a-table": header({"__metadata__": {METADATA: '{"run": {"a": 1}}'}}),
    "fields-hold-truth": header({"__metadata__": {METADATA: '{"round": true}'}}),
    "fields-hold-a-number-of-5000-digits": header(
        {"__metadata__": {METADATA: '{"round": ' + "9" * 5000 + "}"}}
    ),
    "not-a-number": header({"__metadata__": {METADATA: '{"round": NaN}'}}),
    "lone-surrogate": header({"__metadata__": {METADATA: '{"run": "\\ud800", "round": 0}'}}),
    "not-utf-8": header(b'{"__metadata__": {"tacit": "\xff\xfe"}}'),
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.",
    "zip": b"PK\x03\x04" + bytes(60),
    "array-beyond-the-end": header(
        {
            "__metadata__": {METADATA: "{}"},
            "a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]},
        }
    ),
    "arrays-overlap": header(
        {
            "__metadata__": {METADATA: "{}"},
            "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
        }
    )
    + bytes(6),
    "unknown-dtype": header(
        {
            "__metadata__": {METADATA: "{}"},
            "a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]},
        }
    )
    + bytes(1),
    "huge-empty-shape": header(
        {
            "__metadata__": {METADATA: "{}"},
            "a": {"dtype": "U8", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]},
        }
    ),
    "no-fields": save({}, {METADATA: "{}"}),
    "unknown-field": save({}, {METADATA: json.dumps({"sql": "SELECT * FROM interactions"})}),
    "ten-thousand-arrays": save(
        {f"a{i}": np.zeros(0, np.float32) for i in range(10_000)}, {METADATA: "{}"}
    ),
}


def test_garbage_is_refused_without_a_word_of_what_went_wrong_inside(
    limited: tuple[House, int], server: Server
) -> None:
    house, _ = limited
    with house.http() as client:
        for name, body in GARBAGE.items():
            for kind in (messages.JOIN, messages.TRAIN):
                call = "plan" if kind == messages.JOIN else "train"
                answer = client.post(f"/v1/{call}", content=body, headers={KIND_HEADER: kind})
                assert answer.status_code in (403, 500), name
                told_no_more_than_need_be(answer)
    assert house.intents() == []
    assert house.releases() == []
    assert set(house.rules()) == {"request"}
    assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


def test_what_no_message_can_be_is_refused_and_in_the_ledger(
    limited: tuple[House, int], server: Server
) -> None:
    house, _ = limited
    body = to_bytes(server.request(messages.JOIN))
    before = len(house.refusals())
    with house.http() as client:
        for kind in ("", "query.secret", "train", "query.join,", "QUERY.JOIN", "x" * 5000):
            answer = client.post("/v1/plan", content=body, headers={KIND_HEADER: kind})
            told_no_more_than_need_be(answer)
            assert answer.status_code == 403, kind
            before += 1
            assert len(house.refusals()) == before, kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_answered_by_its_own_call_alone(way: Any, server: Server, kind: str) -> None:
    if way.process is None:
        pytest.skip("calls exist over the socket only")
    house = way.house
    body = to_bytes(server.request(kind))
    wrong = [call for call, kinds in CALLS.items() if kind not in kinds]
    with house.http() as client:
        for number, call in enumerate(wrong, start=1):
            answer = client.post(f"/v1/{call}", content=body, headers={KIND_HEADER: kind})
            assert answer.status_code == 403
            told_no_more_than_need_be(answer)
            assert len(house.refusals()) == number
    assert house.intents() == []


PATHS = (
    ("POST", "/v1/histories"),
    ("POST", "/v1/"),
    ("POST", "/"),
    ("POST", "/v1/plan/"),
    ("POST", "/v2/plan"),
    ("POST", "/v1/health"),
    ("GET", "/v1/../policy.toml"),
    ("GET", "/v2/%2e%2e/%2e%2e/policy.toml"),
    ("GET", "/policy.toml"),
    ("GET", "//etc/passwd"),
    ("GET", "/v1/histories.duckdb"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/redoc"),
    ("GET", "/v1/plan"),
    ("PUT", "/v1/plan"),
    ("DELETE", "/v1/plan"),
    ("PATCH", "/v1/train"),
    ("GET", "/v1/%ff%fe%00"),
    ("GET", "/v1/" + "a" * 20_000),
)


def raw(house: House, method: str, path: str) -> tuple[int, str]:
    """Status and body of a request whose path nobody has tidied."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60.0)
        connection.connect(str(house.socket))
        head = f"{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        connection.sendall(head.encode())
        told = b""
        while part := connection.recv(65536):
            told += part
    first, _, body = told.partition(b"\r\n\r\n")
    return int(first.split()[1]), body.decode()


def test_unknown_paths_are_refused_and_each_is_in_the_ledger(limited: tuple[House, int]) -> None:
    house, _ = limited
    for method, path in PATHS:
        before = len(house.refusals())
        status, body = raw(house, method, path)
        assert status == 403, (method, path, body)
        assert set(json.loads(body)) == {"reason"}
        assert len(body) < 1000
        assert len(house.refusals()) == before + 1, (method, path)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE"])
def test_other_methods_are_not_allowed(limited: tuple[House, int], method: str) -> None:
    house, _ = limited
    with house.http() as client:
        answer = client.request(method, "/v1/plan")
    assert answer.status_code in (403, 405)


def test_what_is_not_http_is_not_answered_and_does_no_harm(
    limited: tuple[House, int], server: Server
) -> None:
    house, _ = limited
    for words in (b"\0" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01" + bytes(200)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.settimeout(20.0)
            stranger.connect(str(house.socket))
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            told = b""
            while part := stranger.recv(65536):
                told += part
        assert not told or told.startswith(b"HTTP/1.1 400")
    assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


def test_a_body_that_trickles_keeps_nobody_waiting(house: House, server: Server) -> None:
    whole = http_of(messages.JOIN, to_bytes(server.request(messages.JOIN)))
    with house.agent():
        slow = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(30)]
        for connection in slow:
            connection.connect(str(house.socket))
            connection.sendall(whole[:-10])
        assert reply_of(house.access(20.0).ask(messages.JOIN, server.request(messages.JOIN)))
        # What was begun can still end.
        slow[0].settimeout(20.0)
        slow[0].sendall(whole[-10:])
        assert slow[0].recv(12) == b"HTTP/1.1 200"
        for connection in slow:
            connection.close()


def test_chunked_bodies_are_messages_too(house: House, server: Server) -> None:
    body = to_bytes(server.request(messages.JOIN))
    with house.agent(), house.http() as client:
        pieces = (body[at : at + 7] for at in range(0, len(body), 7))
        answer = client.post("/v1/plan", content=pieces, headers={KIND_HEADER: messages.JOIN})
        assert answer.status_code == 200


def test_a_message_whose_length_is_a_lie_is_no_message(house: House, server: Server) -> None:
    body = to_bytes(server.request(messages.POPULARITY))
    with house.agent():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as courier:
            courier.connect(str(house.socket))
            courier.sendall(http_of(messages.POPULARITY, body[:-1], len(body)))
        assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))
    assert house.computed() == 0
    assert house.intents() == []


def test_strangers_cannot_fill_the_ledger(house: House, stranger: Server) -> None:
    with house.agent(), house.http() as client:
        for number in range(MOST_STRANGERS + 50):
            answer = client.post(f"/v1/plan{number}", content=b"")
            assert answer.status_code == 403
        assert len(house.refusals()) == MOST_STRANGERS


def test_a_ledger_full_of_strangers_still_records_what_was_refused_to_a_federation(
    house: House, server: Server, monkeypatch: pytest.MonkeyPatch, open_way: Callable[..., Any]
) -> None:
    monkeypatch.setattr("client.gate.MOST_STRANGERS", 3)
    way = open_way(house, "here")
    for number in range(10):
        with pytest.raises(RefusedError, match="known"):
            way.ask(f"query.secret{number}", server.request(messages.JOIN))
    assert len(house.refusals()) == 3
    with pytest.raises(RefusedError, match="settings"):
        way.ask(messages.JOIN, server.request(messages.JOIN, settings="{}"))
    assert len(house.refusals()) == 4


def test_a_stranger_who_repeats_one_request_leaves_room_for_others(
    house: House, server: Server, monkeypatch: pytest.MonkeyPatch, open_way: Callable[..., Any]
) -> None:
    monkeypatch.setattr("client.gate.MOST_STRANGERS", 3)
    way = open_way(house, "here")
    for _ in range(10):
        with pytest.raises(RefusedError, match="known"):
            way.ask("query.secret", server.request(messages.JOIN))
    with pytest.raises(RefusedError, match="known"):
        way.ask("query.other", server.request(messages.JOIN))
    assert len(house.refusals()) == 2


LONG = "x" * (LONGEST_TEXT - 10_000)


@pytest.mark.parametrize("place", ["noise", "mechanism", "key", "kind", "field", "anchor", "run"])
def test_a_stranger_cannot_put_long_texts_into_the_ledger(
    house: House, server: Server, open_way: Callable[..., Any], place: str
) -> None:
    good = server.request(messages.JOIN)
    fields, kind = dict(good.fields), messages.JOIN
    plan = json.loads(str(fields["plan"]))
    if place == "noise":
        fields["plan"] = json.dumps(plan | {"noise": LONG})
    elif place == "mechanism":
        fields["plan"] = json.dumps(plan | {"step": plan["step"] | {"name": LONG}})
    elif place == "key":
        fields["plan"] = json.dumps(plan | {"step": plan["step"] | {LONG: 1}})
    elif place == "kind":
        kind = LONG
    elif place == "field":
        fields[LONG] = 1
    else:
        fields[place] = LONG
    way = open_way(house, "here")
    with pytest.raises(RefusedError, match="house refuses") as told:
        way.ask(kind, type(good)(fields, good.arrays))
    assert len(str(told.value)) <= LONGEST_REASON
    assert house.rules() == ["request"]
    assert all(len(refusal.sentence) <= LONGEST_REASON for refusal in house.refusals())


def test_a_stranger_s_text_that_is_no_text_is_refused_on_record(
    house: House, server: Server, open_way: Callable[..., Any]
) -> None:
    """A lone surrogate cannot be written as UTF-8; it must not keep a refusal off the ledger."""
    good = server.request(messages.JOIN)
    plan = json.dumps(json.loads(str(good.fields["plan"])) | {"noise": "\ud800"})
    way = open_way(house, "here")
    with pytest.raises(RefusedError, match="house refuses"):
        way.ask(messages.JOIN, type(good)(dict(good.fields) | {"plan": plan}, {}))
    assert house.rules() == ["request"]


def test_unsigned_requests_do_not_stay_in_memory(
    limited: tuple[House, int], server: Server
) -> None:
    house, pid = limited
    good = server.request(messages.JOIN)

    def large(number: int) -> bytes:
        fields = dict(good.fields) | {"settings": f"{number}" + LONG}
        return to_bytes(type(good)(fields, {}))

    with house.http() as client:

        def send(number: int) -> None:
            answer = client.post(
                "/v1/plan", content=large(number), headers={KIND_HEADER: messages.JOIN}
            )
            assert answer.status_code == 403

        for number in range(10):
            send(number)
        before = memory_bytes(pid)
        for number in range(10, 610):
            send(number)
    assert memory_bytes(pid) - before < 30 * MEBIBYTE


def test_many_large_requests_at_once_do_not_pile_up_in_memory(
    limited: tuple[House, int], server: Server
) -> None:
    """Whoever waits for its turn must not hold its body in the agent."""
    house, pid = limited
    (house.directory / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(
            house.access().ask, messages.POPULARITY, server.request(messages.POPULARITY)
        )
        wait_for(house.directory / "computed")
        before = memory_bytes(pid)
        body = bytes(MEBIBYTE - 1000)
        waiting = []
        for _ in range(60):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(str(house.socket))
            connection.sendall(http_of(messages.JOIN, body, len(body) + 1))
            waiting.append(connection)
        with house.http() as client:
            client.get("/v1/health")
        grown = memory_bytes(pid) - before
        for connection in waiting:
            connection.close()
        (house.directory / "hold").unlink()
        assert reply_of(first.result()).arrays
    assert grown < 30 * MEBIBYTE


def test_health_says_no_more_than_name_code_and_readiness(house: House) -> None:
    with house.agent(), house.http() as client:
        value = client.get("/v1/health").json()
    assert set(value) == {"name", "code", "ready"}
    assert (value["name"], value["ready"]) == ("house", True)


@pytest.mark.parametrize("place", ["client.gate.check_reply", "client.agent.popularity_sum"])
def test_an_exception_inside_stays_inside(
    house: House,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    open_way: Callable[..., Any],
    place: str,
) -> None:
    secret = "user-3 had item 7"

    def fails(*_: object) -> None:
        raise KeyError(secret)

    way = open_way(house, "here")
    monkeypatch.setattr(place, fails)
    with pytest.raises(TacitError) as error:
        way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    assert secret not in str(error.value)
    assert secret not in str(house.refusals())


def test_a_refusal_names_no_file_of_the_organisation(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    other = open_way(make_house("other"), "here")
    head = reply_of(other.ask(messages.JOIN, server.request(messages.JOIN))).head
    assert head is not None
    anchor = countersign(head, "run", server.key)
    asked = [
        (messages.JOIN, {"anchor": anchor}),
        (messages.POPULARITY, {"anchor": anchor}),
        (messages.EVALUATE, {}),
        (messages.TRAIN, {}),
    ]
    house = make_house()
    way = open_way(house, "here")
    for kind, changed in asked:
        with pytest.raises(TacitError) as told:
            way.ask(kind, server.request(kind, **changed))
        assert str(house.directory.parent) not in str(told.value), kind
    (house.directory / "histories.duckdb").write_bytes(b"half of a copy")
    with pytest.raises(TacitError) as told:
        way.ask(messages.JOIN, server.request(messages.JOIN, run="next"))
    assert str(house.directory.parent) not in str(told.value)
    assert str(house.directory.parent) not in str(house.refusals())


def test_a_base_that_is_not_there_is_not_named_to_the_server(
    make_house: Callable[..., House],
    open_way: Callable[..., Any],
    server: Server,
    tmp_path: Path,
) -> None:
    (tmp_path / "gone").mkdir()
    house = make_house(own={"base": {"name": str(tmp_path / "gone")}})
    way = open_way(house, "here")
    with pytest.raises(TacitError) as told:
        way.ask(messages.PLAN, server.request(messages.PLAN))
    assert str(tmp_path) not in str(told.value)
