"""Needs in words: the user says what the wanted item is about, or says nothing.

The words are those attributes of the target that are no numbers (for films their genres): what
somebody who wants this item might say, and no more than many items have.
"""

from dataclasses import replace

import numpy as np

from shared.catalogue import Catalogue
from shared.encoder import Vectors, encode_texts
from shared.metrics import Evaluation
from shared.models import LoadedModel
from shared.ranking import evaluate_targets
from shared.scoring import Blend, Ints, Scorer, Targets
from shared.text_space import TextSpace
from simulations.methods import federated
from simulations.world import World


def rank_asked(world: World, scorer: Scorer) -> dict[str, Evaluation]:
    """Evaluations by method: without the need, with it, and by it alone.

    Args:
        world: whose test items are wanted.
        scorer: with what a federation delivered.
    """
    part, usual = world.test, scorer.blend()
    needs = need_vectors(world.dataset.catalogue, part.target, world.loaded)
    found = {
        "statistics": federated(world, "statistics", part, scorer),
        "unasked": federated(world, "federation", part, scorer),
    }
    for method, blend in (
        ("need", Blend(popularity=0.0, need=1.0)),
        ("texts", replace(usual, adapter=0.0)),
        ("federation", usual),
    ):

        def find(users: Ints, blend: Blend = blend) -> Targets:
            return scorer.targets(part.history, users, needs[users], blend)

        cutoff = world.config.evaluation.cutoff
        found[method] = evaluate_targets(find, scorer.item_side, part, cutoff)
    return found


def words_of(catalogue: Catalogue, place: int) -> str:
    """An item's attributes that are no numbers; empty where there are none."""
    values = [values[place].strip() for values in catalogue.attributes.values()]
    return ". ".join(value for value in values if value and not _number(value))


def need_vectors(catalogue: Catalogue, target: Ints, loaded: LoadedModel) -> Vectors:
    """What each user says, in the space of the item vectors, ``[users, dim]``; 0 for nothing.

    Args:
        catalogue: the items.
        target: ``[users]`` places of what is wanted; below 0 for nothing.
        loaded: the base that encodes texts.
    """
    words = [words_of(catalogue, int(place)) if place >= 0 else "" for place in target]
    distinct = sorted(set(words) - {""})
    items = encode_texts(catalogue.texts, loaded.encoder, loaded.runtime)
    result = np.zeros((len(words), items.shape[1]), dtype=np.float32)
    if not distinct:
        return result
    raw = encode_texts(distinct, loaded.encoder, loaded.runtime)
    vectors = TextSpace.of(items).place(raw)
    row = {text: place for place, text in enumerate(distinct)}
    said = [user for user, text in enumerate(words) if text]
    result[said] = vectors[[row[words[user]] for user in said]]
    return result


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
