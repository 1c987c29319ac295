"""Sentences are written for one person at a time, and for nobody who has gone."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx
import pytest

from client.recommend.facts import Facts, PortraitFacts, RecommendationFacts
from client.recommend.writer import Written
from shared.errors import AssetError
from tests.serving.shop import Shop, metric, running, until

ASKED = "/v1/users/user-5/words?k=3"
PATIENCE_S = 60.0


class SlowWriterStub:
    """In place of a language model's writer: the portrait at once, the rest when it is let."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.stopped = threading.Event()
        self.let = threading.Event()

    def stream(
        self, facts: Iterable[Facts], seed: int = 0, stop: threading.Event | None = None
    ) -> Iterator[Written]:
        assert stop is not None
        self.facts = list(facts)
        yield Written("Portrait.", "model")
        for number, _ in enumerate(self.facts[1:]):
            for _ in range(int(PATIENCE_S / 0.01)):
                if stop.is_set():
                    self.stopped.set()
                    return
                if self.let.wait(0.01):
                    break
            yield Written(f"Sentence {number}.", "retry" if number else "template")


@pytest.fixture
def written(
    first_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SlowWriterStub, str]]:
    """A service whose sentences come from the stub."""
    stub = SlowWriterStub()
    monkeypatch.setattr("client.serving.words.Writer", lambda *_: stub)
    load: Callable[[], Any] = object
    with running(first_shop.directory, load=load) as address:
        yield stub, address


def test_sentences_come_as_they_are_written_with_what_wrote_them(
    written: tuple[SlowWriterStub, str],
) -> None:
    stub, address = written
    with httpx.stream("GET", address + ASKED, timeout=PATIENCE_S) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: portrait"
        # The rest waits for the writer, and the portrait has come.
        stub.let.set()
        rest = "\n".join(lines)
    assert '"text": "Sentence 0.", "by": "template"' in rest
    assert '{"written": 4, "retried": 2, "fallbacks": 1, "model": true}' in rest
    with httpx.Client(base_url=address) as client:
        counts = {
            by: metric(client, f'tacit_sentences_total{{by="{by}"}}')
            for by in ("model", "retry", "template")
        }
    assert counts == {"model": 1.0, "retry": 2.0, "template": 1.0}


def test_the_writer_is_told_the_facts_of_the_list(written: tuple[SlowWriterStub, str]) -> None:
    stub, address = written
    stub.let.set()
    httpx.get(f"{address}{ASKED}&need=a+comedy", timeout=PATIENCE_S)
    portrait, *reasons = stub.facts
    assert isinstance(portrait, PortraitFacts)
    asked = {"k": 3, "need": "a comedy"}
    lines = httpx.get(f"{address}/v1/users/user-5/recommendations", params=asked).json()
    assert [one.item.title for one in reasons if isinstance(one, RecommendationFacts)] == [
        line["title"] for line in lines["recommendations"]
    ]
    assert {one.need for one in reasons if isinstance(one, RecommendationFacts)} == {"a comedy"}


def test_whoever_goes_away_ends_the_writing_and_the_next_one_is_served(
    written: tuple[SlowWriterStub, str],
) -> None:
    stub, address = written
    with httpx.stream("GET", address + ASKED, timeout=PATIENCE_S) as answer:
        assert next(answer.iter_lines()) == "event: portrait"
    until(stub.stopped.is_set, "the end of the writing")
    stub.let.set()
    until(lambda: httpx.get(address + ASKED).status_code == 200, "the next turn")


def test_a_second_text_is_refused_while_one_is_being_written(
    written: tuple[SlowWriterStub, str],
) -> None:
    stub, address = written
    with httpx.stream("GET", address + ASKED, timeout=PATIENCE_S) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: portrait"
        second = httpx.get(address + ASKED)
        assert second.status_code == 503
        assert int(second.headers["retry-after"]) > 0
        # Lists do not wait for it.
        listed = httpx.get(f"{address}/v1/users/user-5/recommendations", timeout=PATIENCE_S)
        assert listed.status_code == 200
        stub.let.set()
        list(lines)
    assert httpx.get(address + ASKED, timeout=PATIENCE_S).status_code == 200


def test_a_model_that_cannot_be_loaded_is_told_and_keeps_no_turn(first_shop: Shop) -> None:
    def load() -> Any:
        raise AssetError("the language model is not there; install it")

    with running(first_shop.directory, load=load) as address:
        for _ in range(2):
            answer = httpx.get(address + ASKED, timeout=PATIENCE_S)
            assert answer.status_code == 503
            assert answer.json()["detail"] == "the language model is not there; install it"


def test_titles_are_generated_by_the_same_model_loaded_once(
    first_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[object] = []

    class GenerativeStub:
        """In place of a language model: the last items of the catalogue that are open."""

        def __init__(self, causal: object, catalogue: Any) -> None:
            self.items = len(catalogue)

        def rank(self, history: Any, need: str | None, k: int, closed: Any) -> Any:
            open_ = [place for place in range(self.items) if place not in closed]
            return [(place, -float(rank)) for rank, place in enumerate(open_[::-1][:k])]

    def load() -> Any:
        loaded.append(object())
        return loaded[-1]

    monkeypatch.setattr("client.serving.language.Generative", GenerativeStub)
    asked = "/v1/users/user-5/recommendations?mode=generative&k=3"
    with running(first_shop.directory, load=load) as address:
        found = [httpx.get(address + asked, timeout=PATIENCE_S).json() for _ in range(2)]
        assert len(loaded) == 1
        reasons = httpx.get(f"{address}{asked}&reasons=true", timeout=PATIENCE_S)
    assert [list(line["parts"]) for line in found[0]["recommendations"]] == [["generated"]] * 3
    assert found[0] == found[1]
    assert reasons.status_code == 400


def test_without_a_language_model_generated_lists_are_refused(client: httpx.Client) -> None:
    answer = client.get("/v1/users/user-5/recommendations?mode=generative")
    assert answer.status_code == 400
    assert "causal language model" in answer.json()["detail"]
