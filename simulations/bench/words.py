"""``tacit bench words``: how much of what the language model writes passes the check, and when."""

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.recommend.causal import load_causal
from client.serving.language import Language
from client.serving.metrics import Metrics
from client.serving.words import Speaker
from shared.assets import resolve_base
from shared.config import Config
from shared.splits import NO_TARGET
from simulations.bench.lists import recommender_of
from simulations.federate import federate, outcome_scorer
from simulations.world import build_world

SEED = 0


@dataclass(frozen=True)
class WordsRow:
    """Texts of one kind.

    Attributes:
        kind: ``portrait`` or ``recommendation``.
        texts: how many.
        first_try, retried, fallbacks: shares of them that the model wrote at once, wrote at the
            second try, and left to a template.
        seconds: mean of a text.
    """

    kind: str
    texts: int
    first_try: float
    retried: float
    fallbacks: float
    seconds: float


def measure(
    config: Config, users: int, k: int, told: Callable[[str], None] = lambda _: None
) -> list[WordsRow]:
    """Run one federation and have the model describe some users and their lists.

    Args:
        config: of the federation.
        users: drawn at random; a portrait each.
        k: recommendations of each that are told of.
        told: is told what runs next.

    Raises:
        AssetError: if SmolLM2 cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        world = build_world(config, Path(scratch))
        told("Federation")
        outcome = federate(world, config, Path(scratch) / "run", "words")
        scorer = outcome_scorer(world, config, outcome)
        recommender = recommender_of(world, scorer, world.test)
        causal = load_causal(resolve_base("smollm2"), world.loaded.runtime)
        speaker = Speaker(Language(lambda: causal), Metrics())
        known = np.flatnonzero(world.test.target != NO_TARGET)
        chosen = np.random.default_rng(SEED).choice(known, min(users, len(known)), replace=False)
        writers: dict[str, Counter[str]] = {"portrait": Counter(), "recommendation": Counter()}
        seconds = dict.fromkeys(writers, 0.0)
        for done, user in enumerate(chosen):
            told(f"user {done + 1} of {len(chosen)}")
            started = time.perf_counter()
            name = recommender.histories.user_ids[user]
            for kind, event in speaker.told(recommender, name, k, None, threading.Event()):
                now = time.perf_counter()
                if kind in writers:
                    writers[kind][str(event["by"])] += 1
                    seconds[kind] += now - started
                started = now
    return [
        WordsRow(
            kind,
            by.total(),
            by["model"] / by.total(),
            by["retry"] / by.total(),
            by["template"] / by.total(),
            seconds[kind] / by.total(),
        )
        for kind, by in writers.items()
        if by
    ]
