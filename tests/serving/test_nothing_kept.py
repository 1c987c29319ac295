"""Requests leave nothing in a file, a cache or a log; the ledger is the agent's to write."""

import hashlib
import logging
import os
import threading
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from client.directory import open_ledger
from client.ledger import Ledger
from shared.entries import Refusal
from tests.serving.shop import Shop, running, until

SECRETS = ("zanzibar-need", "zanzibar-interest", "film-41 zanzibar", "zanzibar-user")


def contents(*folders: Path) -> dict[str, str]:
    """Every file below some folders, by its hash and the time of its last change."""
    return {
        str(path): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def ask_everything(client: httpx.Client) -> None:
    need, interest, item, user = SECRETS
    wish = {"need": need, "interest": interest, "reasons": True, "k": 3}
    paths = [
        "/v1/users/user-1/recommendations",
        "/v1/users/user-1/explanations/film-2",
        "/v1/users/user-1/words",
        "/v1/users/user-1/interests",
        "/v1/privacy",
        "/v1/federation",
        "/metrics",
        "/openapi.json",
        "/",
    ]
    for path in paths:
        assert client.get(path, params={"need": need} if "user" in path else {}).status_code in (
            200,
            422,
        )
    assert client.get(paths[0], params=wish).status_code == 200
    body = {"history": ["film-1", "film-2"], **wish, "interest": [interest]}
    assert client.post("/v1/recommendations", json=body).status_code == 200
    assert client.post("/v1/recommendations", json={"history": [item]}).status_code == 404
    assert client.post("/v1/recommendations", json={"history": need}).status_code == 422
    assert client.get(f"/v1/users/{user}").status_code == 404
    assert client.get("/v1/users", params={"search": user}).status_code == 200


def test_nothing_of_a_request_is_kept_or_logged(
    shop: Shop, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = [shop.directory, Path(os.environ["TACIT_CACHE"]), Path(os.environ["TACIT_HOME"])]
    caplog.set_level(logging.DEBUG)
    # Item vectors of the catalogue are public, and cached when a recommender is opened.
    with running(shop.directory):
        pass
    before = contents(*kept)
    with running(shop.directory) as address, httpx.Client(base_url=address, timeout=60) as client:
        until(
            lambda: client.get("/v1/federation").json()["utility"]["state"] == "ready",
            "the utility",
        )
        caplog.clear()
        ask_everything(client)
        # What the asking side of this test logs of its own requests is no matter of the service.
        lines = [r.getMessage() for r in caplog.records if not r.name.startswith("httpcore")]
        told = "\n".join(line for line in lines if "HTTP Request" not in line)
    assert contents(*kept) == before
    printed = "".join(capfd.readouterr())
    for secret in SECRETS:
        assert secret not in told + printed
        for folder in kept:
            for path in folder.rglob("*"):
                assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_a_request_that_breaks_the_service_leaves_its_class_in_the_log_and_not_its_text(
    shop: Shop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ValueError("broke on zanzibar-need")

    monkeypatch.setattr("client.serving.answers.recommended", breaks)
    with running(shop.directory) as address:
        answer = httpx.get(
            f"{address}/v1/users/user-1/recommendations", params={"need": SECRETS[0]}
        )
    assert answer.status_code == 500
    lines = [r.getMessage() for r in caplog.records if r.name != "httpx"]
    assert any("ValueError at" in line for line in lines)
    assert not any("zanzibar" in line for line in lines)
    assert "zanzibar" not in answer.text
    assert all(r.exc_info is None for r in caplog.records)


def test_the_agent_writes_to_its_ledger_while_the_service_reads_it(shop: Shop) -> None:
    statuses: set[int] = set()
    end = threading.Event()
    with running(shop.directory) as address, closing(open_ledger(shop.directory)) as ledger:

        def read() -> None:
            with httpx.Client(base_url=address, timeout=60.0) as client:
                ended = False
                while not ended:
                    # Asked before, so that each reads at least once.
                    ended = end.is_set()
                    statuses.add(client.get("/v1/privacy").status_code)
                    statuses.add(client.get("/v1/federation").status_code)

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(40):
                ledger.record_refusal(f"run/{number}/step", Refusal("test", f"number {number}"))
        finally:
            end.set()
            for thread in threads:
                thread.join(60.0)
        found = httpx.get(f"{address}/v1/privacy", timeout=60.0).json()
    assert statuses == {200}
    assert found["refusals_total"] == 40
    assert found["refusals"][0]["sentence"] == "number 39"
    assert len(shop.refusals()) == 40


def test_a_new_record_shows_at_once(shop: Shop) -> None:
    with running(shop.directory) as address:
        assert httpx.get(f"{address}/v1/privacy").json()["refusals_total"] == 0
        _refuse(open_ledger(shop.directory))
        assert httpx.get(f"{address}/v1/privacy").json()["refusals_total"] == 1


def _refuse(ledger: Ledger) -> None:
    with ledger:
        ledger.record_refusal("run/9/step", Refusal("test", "once"))
