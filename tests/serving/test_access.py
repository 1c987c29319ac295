"""Who is answered: with the key, or on loopback those who name this machine."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client.serving.access import VARIABLE, Access, access_for
from shared.errors import ConfigError
from tests.serving.shop import Shop, running

KEY = "k" * 31 + "!"
CLOSED = ("/v1/users", "/v1/privacy", "/metrics", "/openapi.json", "/v1/nowhere")


@pytest.fixture(scope="module")
def keyed(first_shop: Shop) -> Iterator[str]:
    """A service that has a key."""
    with running(first_shop.directory, Access(KEY)) as address:
        yield address


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize(
    "shown",
    [None, "Bearer", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer é"],
)
def test_without_the_key_nothing_is_answered(keyed: str, path: str, shown: str | None) -> None:
    headers = {} if shown is None else {"Authorization": shown.encode()}
    answer = httpx.get(keyed + path, headers=headers)
    assert answer.status_code == 401
    assert "Bearer KEY" in answer.json()["detail"]
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", CLOSED[:-1])
def test_with_the_key_everything_is_answered(keyed: str, path: str) -> None:
    answer = httpx.get(keyed + path, headers={"Authorization": f"bearer {KEY}"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/style.css", "/healthz"])
def test_the_page_itself_and_health_need_no_key(keyed: str, path: str) -> None:
    assert httpx.get(keyed + path).status_code == 200


@pytest.mark.parametrize("path", ["//v1/users", "/page/../v1/users", "/page/%2e%2e/v1/users"])
def test_no_spelling_of_a_path_goes_around_the_key(keyed: str, path: str) -> None:
    host, port = keyed.removeprefix("http://").split(":")
    with httpx.Client() as client:
        url = httpx.URL(scheme="http", host=host, port=int(port), raw_path=path.encode())
        answer = client.send(httpx.Request("GET", url))
    assert answer.status_code in (401, 404)
    assert "user-1" not in answer.text


def test_with_a_key_any_host_name_is_answered(keyed: str) -> None:
    headers = {"Host": "shop.example", "Authorization": f"Bearer {KEY}"}
    assert httpx.get(f"{keyed}/v1/users", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8088", "localhost.evil.example", "127.0.0.1.evil.example", ""],
)
@pytest.mark.parametrize("path", ["/v1/users", "/", "/healthz"])
def test_a_page_whose_name_was_made_to_point_here_reads_nothing(
    address: str, path: str, host: str
) -> None:
    answer = httpx.get(address + path, headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert "user-1" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]", "[::1]:9"])
def test_names_of_this_machine_are_answered(address: str, host: str) -> None:
    assert httpx.get(f"{address}/v1/users", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_may_not_ask(address: str, site: str) -> None:
    answer = httpx.get(f"{address}/v1/users", headers={"Sec-Fetch-Site": site})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "shop.example"])
def test_beyond_this_machine_a_key_is_needed_and_the_refusal_names_the_cure(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"--key-file FILE .* or set TACIT_API_KEY"):
        access_for(host, None)
    monkeypatch.setenv(VARIABLE, KEY)
    assert access_for(host, None) == Access(KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_on_this_machine_none_is_needed_and_one_that_is_given_counts(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert access_for(host, None) == Access(None)
    monkeypatch.setenv(VARIABLE, KEY)
    assert access_for(host, None) == Access(KEY)


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_key_file_is_read_without_its_last_line_break(tmp_path: Path) -> None:
    assert access_for("0.0.0.0", key_file(tmp_path, f"{KEY}\n")) == Access(KEY)


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("short", 0o600, "has 5 characters; expected at least 32"),
        ("", 0o600, "has 0 characters"),
        (f"{KEY} {KEY}", 0o600, "has a space"),
        (f"{KEY}ü", 0o600, "beyond ASCII"),
        (KEY, 0o640, "chmod 600"),
        (KEY, 0o604, "chmod 600"),
    ],
)
def test_a_key_that_others_can_read_or_guess_is_refused(
    tmp_path: Path, text: str, mode: int, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        access_for("127.0.0.1", key_file(tmp_path, text, mode))


def test_a_key_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read as an API key"):
        access_for("127.0.0.1", tmp_path / "none")


def test_the_key_shows_in_no_text_of_the_rule() -> None:
    assert KEY not in repr(Access(KEY))
