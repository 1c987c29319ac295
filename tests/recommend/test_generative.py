"""Generated, then grounded: a language model held to the titles of a catalogue."""

import numpy as np
import pytest
import torch

from client.recommend.causal import CausalModel, load_causal
from client.recommend.generative import (
    NOT_GENERATED,
    Generative,
    generative_scores,
    prompt_tokens,
)
from shared.assets import resolve_base
from shared.catalogue import Catalogue
from shared.devices import Runtime
from shared.histories import PrivateHistories
from shared.metrics import evaluate
from shared.splits import leave_one_out
from tests.recommend.causal_models import tiny_causal

TITLES = ("Heat", "Heat 2", "Alien", "Aliens, The", "Babe", "Alien", "Toy Story", "Speed")
YEARS = ("1995", "1997", "1979", "1986", "1995", "1979", "1995", "")
NONE = np.empty(0, dtype=np.int64)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(tuple("abcdefgh"), TITLES, {"year": YEARS})


@pytest.fixture(scope="module")
def causal() -> CausalModel:
    return tiny_causal(TITLES, spread=0.5)


@pytest.fixture(scope="module")
def generative(causal: CausalModel, catalogue: Catalogue) -> Generative:
    return Generative(causal, catalogue)


def places(found: list[tuple[int, float]]) -> list[int]:
    return [place for place, _ in found]


def test_every_item_comes_out_once_where_all_are_asked_for(generative: Generative) -> None:
    found = generative.rank(np.array([6]), None, 8, NONE)
    assert sorted(places(found)) == list(range(8))


def test_scores_are_the_mean_log_probabilities_of_the_title_s_tokens(
    generative: Generative, causal: CausalModel
) -> None:
    lines = {0: "Heat (1995)", 1: "Heat 2 (1997)", 3: "The Aliens (1986)", 7: "Speed"}
    prompt = prompt_tokens(causal, ["Toy Story (1995)"], None)
    found = dict(generative.rank(np.array([6]), None, 8, NONE))
    for place, line in lines.items():
        title = causal.tokenizer(line + "\n", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            logits = causal.model(torch.cat([prompt, title], dim=1)).logits[0]
        chances = torch.log_softmax(logits[prompt.shape[1] - 1 : -1], dim=-1)
        expected = chances[torch.arange(title.shape[1]), title[0]].mean()
        assert found[place] == pytest.approx(float(expected), abs=1e-4)


def test_best_comes_first(generative: Generative) -> None:
    scores = [score for _, score in generative.rank(np.array([6, 1]), None, 8, NONE)]
    assert scores == sorted(scores, reverse=True)


def test_closed_items_never_come_out(generative: Generative) -> None:
    found = generative.rank(np.array([6]), None, 8, np.array([0, 2, 6]))
    assert sorted(places(found)) == [1, 3, 4, 5, 7]


def test_nothing_comes_out_where_all_is_closed(generative: Generative) -> None:
    assert generative.rank(np.array([6]), None, 3, np.arange(8)) == []


def test_no_more_come_out_than_are_asked_for(generative: Generative) -> None:
    assert len(generative.rank(NONE, "something light", 3, NONE)) == 3


def test_a_need_changes_the_ranking(generative: Generative) -> None:
    plain = generative.rank(np.array([6]), None, 8, NONE)
    asked = generative.rank(np.array([6]), "something light", 8, NONE)
    assert dict(plain) != dict(asked)


def test_the_accuracy_table_can_rank_what_was_generated(generative: Generative) -> None:
    rows = [[0, 1, 2], [3, 4, 5], [6, 7, 0]]
    histories = PrivateHistories(
        ("u", "v", "w"), np.array([0, 3, 6, 9]), np.concatenate(rows), np.arange(9.0)
    )
    split = leave_one_out(histories, "test")
    found = evaluate(
        lambda users: generative_scores(generative, split.history, users, 8, k=2), split, 8, 2
    )
    assert len(found) == 3
    scores = generative_scores(generative, split.history, np.array([0]), 8, k=2)
    assert np.count_nonzero(scores[0] > NOT_GENERATED) == 2
    assert (scores[0, [0, 1]] == NOT_GENERATED).all()


@pytest.mark.slow
def test_smollm2_goes_on_with_a_series() -> None:
    titles = ("Alien", "Heat", "Babe", "The Godfather: Part II", "Speed", "The Godfather")
    catalogue = Catalogue(tuple("abcdef"), titles, {"year": ("",) * 6})
    causal = load_causal(resolve_base("smollm2"), Runtime("cpu", "float32"))
    found = Generative(causal, catalogue).rank(np.array([5]), None, 3, np.array([5]))
    assert found[0][0] == 3
