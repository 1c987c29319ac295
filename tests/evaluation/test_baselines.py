"""Baselines against tiny cases worked out by hand, EASE against constrained least squares."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from shared.errors import DataError
from shared.histories import PrivateHistories
from shared.metrics import evaluate
from shared.splits import leave_one_out
from simulations.baselines.ease import ease, ease_weights
from simulations.baselines.item_knn import item_knn, item_similarity
from simulations.baselines.matrices import interaction_matrix, recency_matrix
from simulations.baselines.popularity import popularity, popularity_counts
from simulations.baselines.sasrec import Sasrec, SasrecSettings, sasrec

ALL = np.array([0, 1, 2])


def test_an_interaction_counts_once_in_the_matrix(make_histories):
    matrix = interaction_matrix(make_histories([[0, 2, 0], [], [1]]), 3)
    assert matrix.toarray().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_weights_of_a_history_fade_with_each_step_back(make_histories):
    histories = make_histories([[0], [2, 1, 0], [3, 3, 1]])
    matrix = recency_matrix(histories, np.array([2, 1]), 4, decay=0.5)
    assert matrix.toarray().tolist() == [[0, 1, 0, 0.75], [1, 0.5, 0.25, 0]]


def test_only_the_last_items_of_a_history_weigh(make_histories):
    matrix = recency_matrix(make_histories([[2, 1, 0], [3]]), np.array([0, 1]), 4, last=2)
    assert matrix.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]


def test_popularity_gives_everybody_the_counts(make_histories):
    train = make_histories([[0, 1], [1, 1, 2], [1]])
    assert popularity_counts(train, 4).tolist() == [1, 4, 1, 0]
    assert popularity(train, 4)(np.array([2, 0])).tolist() == [[1, 4, 1, 0]] * 2


def test_item_similarity_is_the_cosine_over_users(make_histories):
    # Users of 0: two, of 1: two, of 2: one; one user had 0 and 1, one had 1 and 2.
    similarity = item_similarity(make_histories([[0], [0, 1], [1, 2]]), 3, 0.0, None).toarray()
    expected = [[0, 1 / 2, 0], [1 / 2, 0, 1 / np.sqrt(2)], [0, 1 / np.sqrt(2), 0]]
    assert similarity == pytest.approx(np.array(expected))


def test_shrinkage_enters_the_divisor(make_histories):
    similarity = item_similarity(make_histories([[0], [0, 1], [1, 2]]), 3, 3.0, None).toarray()
    assert similarity[0, 1] == pytest.approx(1 / (2 + 3))


def test_only_the_nearest_neighbours_are_kept(make_histories):
    # Items 0 and 3 had by the same two users, 1 and 2 by the same one.
    similarity = item_similarity(make_histories([[0, 1, 2, 3], [0, 3]]), 4, 0.0, 1).toarray()
    assert [np.flatnonzero(row).tolist() for row in similarity] == [[3], [2], [1], [0]]


def test_equally_near_neighbours_are_kept_in_the_order_of_the_catalogue(make_histories):
    similarity = item_similarity(make_histories([[0, 1, 2, 3]]), 4, 0.0, 2).toarray()
    kept = [np.flatnonzero(row).tolist() for row in similarity]
    assert kept == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_item_knn_adds_up_the_similarities_to_the_last_items(make_histories):
    train = make_histories([[0, 1], [1, 2], [2, 3]])
    history = make_histories([[0, 3, 2], [3, 0], [1]])
    similarity = item_similarity(train, 4, 1.0, None).toarray()
    scores = item_knn(train, history, 4, last=2, shrinkage=1.0)(ALL)
    expected = [similarity[3] + similarity[2], similarity[3] + similarity[0], similarity[1]]
    assert scores == pytest.approx(np.array(expected), rel=1e-6)


def test_ease_weights_solve_the_constrained_least_squares_problem(make_histories):
    generator = np.random.default_rng(0)
    items, l2 = 6, 2.0
    train = make_histories([generator.permutation(items)[:3].tolist() for _ in range(30)])
    matrix = interaction_matrix(train, items).toarray()
    expected = np.zeros((items, items))
    for item in range(items):
        # With its diagonal at zero, a column is a ridge regression on the other items.
        others = np.delete(matrix, item, axis=1)
        stacked = np.vstack([others, np.sqrt(l2) * np.eye(items - 1)])
        wanted = np.concatenate([matrix[:, item], np.zeros(items - 1)])
        solution = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        expected[np.arange(items) != item, item] = solution
    assert ease_weights(train, items, l2) == pytest.approx(expected, abs=1e-10)


def test_ease_of_two_items_is_the_ridge_coefficient(make_histories):
    # Item 1 from item 0: 2 users had both, 3 had item 0; 2 / (3 + 1).
    weights = ease_weights(make_histories([[0, 1], [0, 1], [0]]), 2, 1.0)
    assert weights[0, 1] == pytest.approx(2 / 4)


def test_ease_scores_are_the_faded_history_times_the_weights(make_histories):
    train = make_histories([[0, 1], [1, 2], [2, 3], [0, 3]])
    history = make_histories([[0, 3, 2], [], [1]])
    weights = ease_weights(train, 4, 1.0)
    expected = [weights[2] + 0.5 * weights[3] + 0.25 * weights[0], np.zeros(4), weights[1]]
    scores = ease(train, history, 4, l2=1.0, decay=0.5)(ALL)
    assert scores == pytest.approx(np.array(expected), abs=1e-6)


ITEMS = 20


@pytest.fixture(scope="module")
def walks():
    """Every user walks along a ring of items, one at a time, from a place of their own."""
    users, length = 100, 9
    starts = np.random.default_rng(0).integers(ITEMS, size=users)
    walk = (starts[:, None] + np.arange(length)) % ITEMS
    return PrivateHistories(
        user_ids=tuple(map(str, range(users))),
        offsets=np.arange(users + 1) * length,
        items=walk.ravel(),
        times=np.tile(np.arange(length, dtype=np.float64), users),
    )


def test_sasrec_learns_the_next_step_of_a_walk(walks):
    part, validation = leave_one_out(walks, "test"), leave_one_out(walks, "validation")
    settings = SasrecSettings(width=16, window=5, learning_rate=0.01, most_epochs=30)
    scorer = sasrec(part.train, part.history, validation, ITEMS, settings)
    found = evaluate(scorer, part, ITEMS)
    assert found.accuracy > 0.9


def test_sasrec_is_the_same_for_the_same_seed_and_leaves_the_random_state_alone(walks):
    part, validation = leave_one_out(walks, "test"), leave_one_out(walks, "validation")
    settings = SasrecSettings(width=8, window=4, most_epochs=2, validate_every=1)
    before = torch.random.get_rng_state()
    users = np.arange(5)
    first, again, other = (
        sasrec(part.train, part.history, validation, ITEMS, settings, seed)(users)
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.fixture
def script_validation(monkeypatch):
    """Makes validations of SASRec find the given NDCG values; what is left was not asked for."""

    def script(*values: float) -> list[float]:
        left = list(values)
        monkeypatch.setattr(
            "simulations.baselines.sasrec.evaluate",
            lambda *_: SimpleNamespace(ndcg=left.pop(0)),
        )
        return left

    return script


def test_sasrec_keeps_the_state_that_validated_best(walks, script_validation):
    part = leave_one_out(walks, "test")

    def trained(epochs):
        settings = SasrecSettings(width=8, window=4, most_epochs=epochs, validate_every=1)
        return sasrec(part.train, part.history, part, ITEMS, settings)(np.arange(len(walks)))

    script_validation(0.1, 0.5)
    second = trained(2)
    script_validation(0.1, 0.5, 0.3, 0.5)
    assert np.array_equal(trained(4), second)


def test_sasrec_stops_when_its_patience_is_spent(walks, script_validation):
    part = leave_one_out(walks, "test")
    settings = SasrecSettings(width=8, window=4, most_epochs=20, validate_every=2, patience=2)
    left = script_validation(0.1, 0.3, 0.2, 0.4, 0.4, 0.3, 0.9)
    sasrec(part.train, part.history, part, ITEMS, settings)
    assert left == [0.9]


def test_sasrec_validates_its_last_epoch(walks, script_validation):
    part = leave_one_out(walks, "test")
    settings = SasrecSettings(width=8, window=4, most_epochs=3, validate_every=2)
    left = script_validation(0.1, 0.3, 0.9)
    sasrec(part.train, part.history, part, ITEMS, settings)
    assert left == [0.9]


def test_sasrec_refuses_users_without_a_second_item(walks, make_histories):
    validation = leave_one_out(walks, "validation")
    with pytest.raises(DataError, match="none of the 2 users has two items"):
        sasrec(make_histories([[1], []]), walks, validation, ITEMS)


@pytest.mark.parametrize("training", [True, False])
def test_a_state_of_sasrec_depends_on_no_later_item_and_no_padding(training):
    torch.manual_seed(0)
    model = Sasrec(9, SasrecSettings(width=16, window=6, dropout=0.0)).train(training)
    # Torch takes another path through the blocks where no gradient is asked for.
    with torch.set_grad_enabled(training):
        full = model(torch.tensor([[3, 1, 4, 1, 5, 2]]))
        padded = model(torch.tensor([[3, 1, 4, -1, -1, -1]]))
    assert torch.allclose(full[:, :3], padded[:, :3], atol=1e-6)
    assert not torch.allclose(full[:, 3:], padded[:, 3:], atol=1e-3)


def test_sasrec_reads_the_newest_items_of_a_long_history(walks, make_histories):
    validation = leave_one_out(walks, "validation")
    settings = SasrecSettings(width=8, window=4, most_epochs=1, validate_every=1)
    long = make_histories([[7, 8, 0, 1, 2, 3], [5, 5, 0, 1, 2, 3], [0, 1, 2, 3]])
    scores = sasrec(validation.train, long, validation, ITEMS, settings)(ALL)
    assert scores[0] == pytest.approx(scores[2], abs=1e-5)
    assert scores[1] == pytest.approx(scores[2], abs=1e-5)


# HR@10 and NDCG@10 on the test items, from an implementation that shares no code with this one.
REFERENCE = {"popularity": (0.086, 0.044), "item_knn": (0.167, 0.093), "ease": (0.195, 0.103)}


@pytest.mark.slow
@pytest.mark.parametrize("method", REFERENCE)
def test_baselines_reach_the_reference_figures_on_movielens(movielens, method):
    histories, items = movielens
    part = leave_one_out(histories, "test")
    scorer = {
        "popularity": lambda: popularity(part.train, items),
        "item_knn": lambda: item_knn(part.train, part.history, items),
        "ease": lambda: ease(part.train, part.history, items),
    }[method]()
    found = evaluate(scorer, part, items)
    assert (found.hr, found.ndcg) == pytest.approx(REFERENCE[method], abs=0.01)
