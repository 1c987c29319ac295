"""Sentences by a causal language model, each checked against the facts before anyone sees it.

A sentence is asked for at most twice, first greedily, then by sampling; if neither passes the check
the template speaks. While the model writes, only what may still pass the check can be written
(``Grounds.continues``), so that most of what it begins can be shown.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from client.recommend.causal import CausalModel
from client.recommend.facts import Facts, PortraitFacts
from client.recommend.grammar import Fault
from client.recommend.grounding import Grounds
from client.recommend.prompts import prompt_of
from client.recommend.templates import sentence
from client.recommend.titles import TitleNames

MOST_TOKENS = {"recommendation": 70, "portrait": 110}
MOST_PROMPT = 1024
# The next token is one of the likeliest that may stand. Where none of these may, the model wants to
# say what is no fact; to force it to say something else makes sentences that nobody understands.
CANDIDATES = 64
LEAST_CHANCE = 0.002
TEMPERATURE = 0.7

By = Literal["model", "retry", "template"]


@dataclass(frozen=True)
class Written:
    """A text that may be shown.

    Attributes:
        text: made of facts alone.
        by: the model at first, the model at its retry, or the template.
        faults: of what the model wrote before, by attempt.
    """

    text: str
    by: By
    faults: tuple[tuple[Fault, ...], ...] = ()


@dataclass(frozen=True)
class Counts:
    """How many texts a writer gave out: all, those that took a retry, those of the template."""

    written: int = 0
    retried: int = 0
    fallbacks: int = 0


class Writer:
    """Writes about facts; safe to use from several threads, one of which generates at a time.

    Args:
        causal: the language model.
        catalogue_titles: of all items.
    """

    def __init__(self, causal: CausalModel, catalogue_titles: TitleNames) -> None:
        self._causal = causal
        self._titles = catalogue_titles
        self._counts = Counts()
        self._counting = threading.Lock()

    @property
    def counts(self) -> Counts:
        """Of all texts so far."""
        return self._counts

    def write(self, facts: Facts, seed: int = 0) -> Written:
        """One text about some facts.

        Args:
            facts: all that may be said.
            seed: of the retry, which is sampled.
        """
        return next(self.stream([facts], seed))

    def stream(
        self, facts: Iterable[Facts], seed: int = 0, stop: threading.Event | None = None
    ) -> Iterator[Written]:
        """A text about each of some facts, given out as soon as it is written and checked.

        Args:
            facts: of each text.
            seed: of the retries, which are sampled.
            stop: set by whoever listens no longer: the text in hand is given up within a token.
        """
        stop = stop or threading.Event()
        for number, given in enumerate(facts):
            written = self._written(given, seed + number, stop)
            if written is None:
                return
            self._count(written)
            yield written

    def _written(self, facts: Facts, seed: int, stop: threading.Event) -> Written | None:
        faults: list[tuple[Fault, ...]] = []
        if not _worth_telling(facts):
            return Written(sentence(facts), "template")
        grounds = Grounds(facts)
        prompt = prompt_of(self._causal, facts)
        attempts: tuple[tuple[By, torch.Generator | None], ...] = (
            ("model", None),
            ("retry", torch.Generator().manual_seed(seed)),
        )
        for by, generator in attempts:
            if prompt.shape[1] > MOST_PROMPT:
                faults.append((Fault("length", f"facts of {prompt.shape[1]} tokens"),))
                break
            with self._causal.in_use:
                text = generate(self._causal, prompt, grounds, generator, stop)
            if text is None:
                return None
            found = grounds.check(text, self._titles)
            if not found:
                return Written(text, by, tuple(faults))
            faults.append(tuple(found))
        return Written(sentence(facts), "template", tuple(faults))

    def _count(self, written: Written) -> None:
        with self._counting:
            found = self._counts
            self._counts = Counts(
                found.written + 1,
                found.retried + (written.by == "retry"),
                found.fallbacks + (written.by == "template"),
            )


@torch.inference_mode()
def generate(
    causal: CausalModel,
    prompt: Tensor,
    grounds: Grounds,
    generator: torch.Generator | None,
    stop: threading.Event,
) -> str | None:
    """What a model writes within some grounds; None if it was stopped.

    Args:
        causal: the language model, in this thread's use.
        prompt: ``[1, length]`` tokens.
        grounds: what may be written.
        generator: to sample with; None for the likeliest token at each step.
        stop: asks for an end.
    """
    text, tokens, cache = "", prompt, None
    for _ in range(MOST_TOKENS[grounds.kind]):
        if stop.is_set():
            return None
        output = causal.model(input_ids=tokens, cache=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token = _next(causal, output.logits[0, -1].float().cpu(), text, grounds, generator)
        if token is None:
            break
        text += causal.token_texts[token]
        if grounds.finished(text):
            break
        tokens = prompt.new_tensor([[token]])
    return text.strip()


def _next(
    causal: CausalModel,
    logits: Tensor,
    text: str,
    grounds: Grounds,
    generator: torch.Generator | None,
) -> int | None:
    """The next token; None where the model ends or has nothing to say that may be said."""
    chances, candidates = torch.softmax(logits, dim=0).topk(CANDIDATES)
    allowed: list[int] = []
    for place, token in enumerate(candidates.tolist()):
        added = causal.token_texts[token]
        if chances[place] < LEAST_CHANCE or (allowed and generator is None):
            break
        # A text begins without the space that parts it from what is before.
        if token in causal.ends or (added and grounds.continues((text + added).lstrip())):
            allowed.append(place)
    if not allowed:
        return None
    chosen = 0
    if generator is not None:
        weights = chances[allowed] ** (1.0 / TEMPERATURE)
        chosen = int(torch.multinomial(weights, 1, generator=generator))
    token = int(candidates[allowed[chosen]])
    return None if token in causal.ends else token


def _worth_telling(facts: Facts) -> bool:
    """Whether there is more than one plain way to say it."""
    if isinstance(facts, PortraitFacts):
        return bool(facts.themes or facts.recent)
    return bool(facts.because or facts.words or facts.need)
