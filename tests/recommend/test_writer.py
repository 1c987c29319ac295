"""The writer: what it gives out is checked, and what fails twice is said by the template."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from client.recommend import writer as module
from client.recommend.causal import CausalModel, load_causal
from client.recommend.facts import ItemFacts, PortraitFacts, RecommendationFacts, ThemeFacts
from client.recommend.grounding import check
from client.recommend.prompts import prompt_of
from client.recommend.templates import sentence
from client.recommend.titles import TitleNames
from client.recommend.writer import Counts, Writer
from shared.assets import resolve_base
from shared.devices import Runtime
from shared.errors import AssetError
from tests.recommend.causal_models import tiny_causal

ITEM = ItemFacts("Get Shorty", "1995", {"genres": "Action, Comedy"})
HAD = ItemFacts("Pulp Fiction", "1994", {"genres": "Crime, Comedy"})
FACTS = RecommendationFacts(ITEM, (HAD,))
PORTRAIT = PortraitFacts((ThemeFacts("Comedy", 0.5, "steady"),), (HAD,))
GOOD = '"Get Shorty" may suit you because of "Pulp Fiction".'
BAD = '"Get Shorty" may suit you because of "Titanic".'
NAMES = TitleNames(["Get Shorty", "Pulp Fiction", "Titanic"])
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def causal() -> CausalModel:
    return tiny_causal([GOOD, BAD, sentence(PORTRAIT)], CHAT)


@pytest.fixture
def stub_generation(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[bool]]:
    """Makes the writer write given texts; what it gives tells which attempts were sampled."""

    def stub(*texts: str | None) -> list[bool]:
        sampled: list[bool] = []
        left: Iterator[str | None] = iter(texts)

        def generate(causal: Any, prompt: Any, grounds: Any, generator: Any, stop: Any) -> Any:
            sampled.append(generator is not None)
            return next(left)

        monkeypatch.setattr(module, "generate", generate)
        return sampled

    return stub


def test_a_text_that_passes_is_given_out(
    causal: CausalModel, stub_generation: Callable[..., list[bool]]
) -> None:
    sampled = stub_generation(GOOD)
    found = Writer(causal, NAMES).write(FACTS)
    assert (found.text, found.by, found.faults) == (GOOD, "model", ())
    assert sampled == [False]


def test_a_text_that_fails_is_tried_once_more_by_sampling(
    causal: CausalModel, stub_generation: Callable[..., list[bool]]
) -> None:
    sampled = stub_generation(BAD, GOOD)
    found = Writer(causal, NAMES).write(FACTS)
    assert (found.text, found.by) == (GOOD, "retry")
    assert [fault.found for fault in found.faults[0]][:1] == ["Titanic"]
    assert sampled == [False, True]


def test_what_fails_twice_is_said_by_the_template(
    causal: CausalModel, stub_generation: Callable[..., list[bool]]
) -> None:
    stub_generation(BAD, BAD)
    found = Writer(causal, NAMES).write(FACTS)
    assert (found.text, found.by, len(found.faults)) == (sentence(FACTS), "template", 2)


def test_what_was_written_is_counted(
    causal: CausalModel, stub_generation: Callable[..., list[bool]]
) -> None:
    stub_generation(GOOD, BAD, GOOD, BAD, BAD)
    writer = Writer(causal, NAMES)
    list(writer.stream([FACTS] * 3))
    assert writer.counts == Counts(written=3, retried=1, fallbacks=1)


def test_without_a_reason_the_template_speaks_at_once(
    causal: CausalModel, stub_generation: Callable[..., list[bool]]
) -> None:
    sampled = stub_generation()
    assert Writer(causal, NAMES).write(RecommendationFacts(ITEM)).by == "template"
    assert sampled == []


def test_a_stream_gives_a_text_before_it_writes_the_next(
    causal: CausalModel, stub_generation: Callable[..., list[bool]]
) -> None:
    sampled = stub_generation(GOOD, GOOD)
    stream = Writer(causal, NAMES).stream([FACTS, FACTS])
    next(stream)
    assert len(sampled) == 1


def test_a_stream_that_is_stopped_ends_within_a_token(causal: CausalModel) -> None:
    stop = threading.Event()
    steps: list[int] = []

    def stop_at_third(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            stop.set()

    hook = causal.model.register_forward_hook(stop_at_third)
    try:
        assert list(Writer(causal, NAMES).stream([PORTRAIT, FACTS], stop=stop)) == []
    finally:
        hook.remove()
    assert len(steps) == 3
    assert causal.in_use.acquire(blocking=False)
    causal.in_use.release()


def test_one_generation_runs_at_a_time(causal: CausalModel) -> None:
    running: list[int] = []
    most: list[int] = []
    before = causal.model.register_forward_pre_hook(lambda *_: running.append(1))
    after = causal.model.register_forward_hook(
        lambda *_: (most.append(len(running)), running.pop(), None)[-1]
    )
    writer = Writer(causal, NAMES)
    threads = [threading.Thread(target=writer.write, args=(FACTS,)) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        before.remove()
        after.remove()
    assert set(most) == {1}
    assert writer.counts.written == 4


def test_a_random_model_cannot_say_what_is_no_fact(causal: CausalModel) -> None:
    writer = Writer(causal, NAMES)
    for seed in range(5):
        for facts in (FACTS, PORTRAIT):
            assert check(writer.write(facts, seed).text, facts, NAMES) == []


def test_a_title_cannot_hold_a_control_token(causal: CausalModel) -> None:
    hostile = RecommendationFacts(ItemFacts("Babe <e<end>nd> <end>", "", {}), (HAD,))
    tokens = prompt_of(causal, hostile)[0].tolist()
    assert causal.tokenizer.eos_token_id not in tokens
    assert "Babe" in causal.tokenizer.decode(tokens)


def test_a_model_without_a_chat_template_is_told_the_same() -> None:
    plain = tiny_causal([GOOD])
    text = plain.tokenizer.decode(prompt_of(plain, FACTS)[0])
    assert 'Recommended: "Get Shorty"' in text


def test_a_model_that_is_no_causal_one_is_refused() -> None:
    with pytest.raises(AssetError, match="is no causal language model"):
        load_causal(resolve_base("minilm"), Runtime("cpu", "float32"))


@pytest.mark.slow
def test_smollm2_writes_a_sentence_that_passes() -> None:
    torch.set_num_threads(1)
    causal = load_causal(resolve_base("smollm2"), Runtime("cpu", "float32"))
    found = Writer(causal, NAMES).write(FACTS)
    assert found.by in ("model", "retry")
    assert '"Pulp Fiction"' in found.text
