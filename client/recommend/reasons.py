"""Reasons by leave-one-out on the real score: what a recommendation loses without an item or word.

Nothing is estimated: the history without an item is scored by the same model as the history whole.
"""

from collections.abc import Callable, Sequence

import numpy as np

from client.recommend.query import HistoryReason, WordReason
from shared.catalogue import Catalogue
from shared.encoder import Vectors
from shared.histories import PrivateHistories
from shared.scoring import Ints, Scorer, Targets
from shared.statistics import Floats

MOST_REASONS = 3
# A word that carries less of the need's part than this is no reason.
LEAST_SHARE = 0.1
# What stands before or after a word and is no part of it.
PUNCTUATION = ".,;:!?()[]{}\"'|/"

TargetsOf = Callable[[PrivateHistories, Ints], Targets]


def total(scorer: Scorer, targets: Targets, places: Ints) -> Floats:
    """Scores of some items, ``[users, places] float64``."""
    return np.asarray(np.sum(list(scorer.parts(targets, places).values()), axis=0))


def history_reasons(
    scorer: Scorer, targets_of: TargetsOf, row: Ints, places: Ints, catalogue: Catalogue
) -> list[tuple[tuple[HistoryReason, ...], float]]:
    """For each item, which items of the history carried it, and what all of them carry together.

    Every different item among the newest ``model.window`` interactions is left out in turn, with
    all its occurrences. The largest drops are named, as many as lower the score when they go
    together; so what is named is always true.

    Args:
        scorer: with what was delivered.
        targets_of: what users look for, by the weights of the query.
        row: ``[length]`` the history. Private.
        places: items to explain.
        catalogue: for titles.
    """
    candidates = list(dict.fromkeys(row[::-1][: scorer.config.model.window].tolist()))
    if not candidates:
        return [((), 0.0) for _ in places]
    left_out = [row[row != item] for item in candidates]
    scores = total(scorer, _targets(targets_of, [row, *left_out]), places)
    drops = scores[0] - scores[1:]
    named = []
    for column in range(len(places)):
        order = np.argsort(-drops[:, column], kind="stable")[:MOST_REASONS]
        named.append([int(i) for i in order if drops[i, column] > 0.0])
    together = np.zeros(len(places))
    open_ = [column for column, chosen in enumerate(named) if chosen]
    while open_:
        without = [row[~np.isin(row, [candidates[i] for i in named[c]])] for c in open_]
        left = total(scorer, _targets(targets_of, without), places[open_]).diagonal()
        together[open_] = scores[0, open_] - left
        # Items can stand in for each other: fewer are named until what is said of them holds. One
        # alone always lowers the score.
        open_ = [column for column in open_ if together[column] <= 0.0 and len(named[column]) > 1]
        for column in open_:
            named[column].pop()
    return [
        (
            tuple(
                HistoryReason(
                    catalogue.item_ids[candidates[i]],
                    catalogue.titles[candidates[i]],
                    float(drops[i, column]),
                )
                for i in named[column]
            ),
            float(together[column]),
        )
        for column in range(len(places))
    ]


def word_reasons(
    texts: Sequence[str], vectors_of: Callable[[Sequence[str]], Vectors], direction: Vectors
) -> list[tuple[WordReason, ...]]:
    """For each item's text, the words without which it matches what was asked for less.

    Args:
        texts: of the items.
        vectors_of: texts in the space of the item vectors.
        direction: ``[dim]`` of the need's part of the score.
    """
    spoken = [text.split() for text in texts]
    variants = [
        " ".join(words[:i] + words[i + 1 :]) or " " for words in spoken for i in range(len(words))
    ]
    scores = vectors_of([*texts, *variants]).astype(np.float64) @ direction.astype(np.float64)
    whole, rest = scores[: len(texts)], scores[len(texts) :]
    result = []
    for words, score in zip(spoken, whole, strict=True):
        drops, rest = score - rest[: len(words)], rest[len(words) :]
        order = np.argsort(-drops, kind="stable")[:MOST_REASONS]
        result.append(
            tuple(
                WordReason(words[i].strip(PUNCTUATION), float(drops[i]))
                for i in order
                if drops[i] > 0.0
                and drops[i] >= LEAST_SHARE * abs(score)
                and len(words[i].strip(PUNCTUATION)) > 2
            )
        )
    return result


def _targets(targets_of: TargetsOf, rows: Sequence[Ints]) -> Targets:
    lengths = np.array([len(row) for row in rows])
    histories = PrivateHistories(
        ("",) * len(rows),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(rows).astype(np.int64),
        np.zeros(lengths.sum()),
    )
    return targets_of(histories, np.arange(len(rows)))
