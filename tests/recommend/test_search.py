"""Search finds what a dense sort finds, however the catalogue is made; the bound it rests on."""

import importlib.util
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.recommend import neighbours
from client.recommend.rounding import EightBits, FullPrecision, whole_products_hold
from client.recommend.search import ItemIndex
from shared.bounds import UNIT, longest_row
from shared.config import parse_config
from shared.errors import ModelError
from shared.scoring import Targets
from simulations.bench.search import measure

KINDS = ("spread", "spiky", "near duplicates", "almost twins", "twins", "tiny and large")


def catalogue(kind, items, dim, generator):
    """Rows that are hard for rounding: ``[items, dim] float32``."""
    rows = generator.normal(size=(items, dim))
    if kind == "spiky":
        rows *= generator.random((items, dim)) ** 8
        rows[:, 0] += 1.0
    elif kind == "near duplicates":
        rows = generator.normal(size=(1, dim)) + 1e-4 * rows
    elif kind == "almost twins":
        rows = generator.normal(size=(1, dim)) + 1e-7 * rows
    elif kind == "twins":
        rows = rows[generator.integers(max(1, items // 4), size=items)]
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if kind == "tiny and large":
        rows *= 10.0 ** generator.uniform(-6, 3, size=(items, 1))
    return rows.astype(np.float32)


def made_up(kind="spread", items=2000, dim=32, users=6, covered=40, seed=0):
    """A catalogue, its log popularity, the places of G and targets of some users."""
    generator = np.random.default_rng(seed)
    vectors = catalogue(kind, items, dim, generator)
    # Rounded, so that popularity alone ties.
    log_popularity = np.round(generator.normal(size=items), 1)
    top = generator.permutation(items)[: min(covered, items)]
    directions = generator.normal(size=(users, dim)).astype(np.float32)
    targets = Targets(
        generator.uniform(0.0, 2.0, users),
        generator.normal(size=(users, len(top))),
        {"adapter": directions, "content": 0.5 * directions[::-1]},
        {"adapter": generator.normal(size=users)},
    )
    return vectors, log_popularity, top, targets


def dense(vectors, log_popularity, top, targets, row):
    """All scores by one dense product in float64, rounded to float32."""
    scores = vectors.astype(np.float64) @ targets.direction[row].astype(np.float64)
    scores += targets.prior[row] * log_popularity + targets.offset[row]
    scores[top] += targets.reach[row]
    return scores.astype(np.float32)


def ranked(scores, count, excluded=(), allowed=None):
    """Places by a stable sort of all scores."""
    order = np.argsort(-scores, kind="stable")
    out = (
        np.isin(order, excluded) if allowed is None else np.isin(order, excluded) | ~allowed[order]
    )
    return order[~out][:count]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    items=st.sampled_from([1, 2, 37, 700, 6000]),
    dim=st.sampled_from([1, 3, 16, 64]),
    count=st.sampled_from([1, 10, 100]),
    filtered=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_the_places_are_those_of_a_dense_stable_sort(kind, items, dim, count, filtered, seed):
    vectors, log_popularity, top, targets = made_up(kind, items, dim, users=2, seed=seed)
    generator = np.random.default_rng(seed)
    excluded = generator.integers(items, size=generator.integers(0, 20))
    allowed = generator.random(items) < 0.95 if filtered else None
    index = ItemIndex(vectors, log_popularity, top)
    for row in range(2):
        scores = dense(vectors, log_popularity, top, targets, row)
        places, found = index.best(targets, row, count, excluded, allowed)
        assert places.tolist() == ranked(scores, count, excluded, allowed).tolist()
        assert found.tolist() == scores[places].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_the_same_lists_as_one_query_each(kind):
    vectors, log_popularity, top, targets = made_up(kind, items=3000, users=20)
    index = ItemIndex(vectors, log_popularity, top)
    excluded = [np.arange(row * 5) for row in range(20)]
    allowed = np.arange(3000) % 3 > 0
    for mask in (None, allowed):
        batch = list(index.best_many(targets, 10, excluded, mask))
        assert len(batch) == 20
        for row, (places, scores) in enumerate(batch):
            alone, its_scores = index.best(targets, row, 10, excluded[row], mask)
            assert places.tolist() == alone.tolist()
            assert scores.tolist() == its_scores.tolist()


def test_without_a_direction_popularity_ranks_and_ties_go_by_place():
    vectors, log_popularity, top, _ = made_up(items=20_000)
    nothing = Targets(
        np.ones(1),
        np.zeros((1, len(top))),
        {"content": np.zeros((1, vectors.shape[1]), np.float32)},
        {"content": np.zeros(1)},
    )
    # All but 3 share one popularity, as items that nobody had do.
    log_popularity[:] = -1.0
    log_popularity[[700, 30, 9000]] = 2.0
    index = ItemIndex(vectors, log_popularity, top)
    expected = [30, 700, 9000, 0, 1]
    assert index.best(nothing, 0, 5)[0].tolist() == expected
    ((batch, _),) = index.best_many(nothing, 5, [np.empty(0, np.int64)])
    assert batch.tolist() == expected


def test_an_item_whose_row_lost_as_much_as_rounding_can_take_is_still_the_best():
    # The direction lies along what rounding takes off the first row, and off no other row.
    step, dim = 1e-3, 64
    first = step * (np.full(dim, 50.0) + 0.49)
    first[0] = 127 * step
    lost = 0.49 * step * (dim - 1)
    second = np.full(dim, (first.sum() - 0.1 * lost) / dim)
    vectors = np.stack([np.zeros(dim), second, first]).astype(np.float32)
    targets = Targets(
        np.ones(1),
        np.zeros((1, 0)),
        {"adapter": np.ones((1, dim), np.float32)},
        {"adapter": np.zeros(1)},
    )
    index = ItemIndex(vectors, np.zeros(3), np.empty(0, np.int64))
    assert index.best(targets, 0, 1)[0].tolist() == [2]


def test_scores_that_are_one_number_in_float32_go_by_place():
    vectors, log_popularity, top, targets = made_up(items=5000)
    # Numbers of a hundred million have steps of 8 in float32.
    targets.offsets["adapter"][:] = 1e8
    index = ItemIndex(vectors, log_popularity, top)
    expected = ranked(dense(vectors, log_popularity, top, targets, 0), 50)
    assert index.best(targets, 0, 50)[0].tolist() == expected.tolist()
    batch = list(index.best_many(targets, 50, [np.empty(0, np.int64)] * 6))
    assert batch[0][0].tolist() == expected.tolist()


@pytest.mark.parametrize("exact_up_to", [10**6, 0])
def test_what_is_excluded_never_comes_out_and_all_that_is_left_does(exact_up_to):
    vectors, log_popularity, top, targets = made_up(items=7000)
    index = ItemIndex(vectors, log_popularity, top, exact_up_to)
    excluded = np.arange(6500)
    places, _ = index.best(targets, 0, 1000, excluded)
    assert sorted(places.tolist()) == list(range(6500, 7000))
    assert len(index.best(targets, 0, 5, np.arange(7000))[0]) == 0


@pytest.mark.parametrize("exact_up_to", [10**6, 0])
@pytest.mark.parametrize("left", [3, 5500])
def test_a_filter_that_leaves_few_items_gives_all_of_them_but_the_excluded(exact_up_to, left):
    vectors, log_popularity, top, targets = made_up(items=12_000)
    index = ItemIndex(vectors, log_popularity, top, exact_up_to)
    allowed = np.zeros(12_000, dtype=bool)
    allowed[np.random.default_rng(0).permutation(12_000)[:left]] = True
    there = np.flatnonzero(allowed)
    places, _ = index.best(targets, 0, left, there[:1], allowed)
    assert sorted(places.tolist()) == there[1:].tolist()
    assert allowed[there[0]], "the caller's mask was changed"


def test_queries_at_the_same_time_have_the_answers_of_queries_alone(monkeypatch):
    vectors, log_popularity, top, targets = made_up(items=60_000, users=24)
    index = ItemIndex(vectors, log_popularity, top)
    alone = [index.best(targets, row, 10)[0].tolist() for row in range(24)]
    together = []
    original = EightBits.products

    def counted(self, directions, out):
        together.append(len(directions))
        return original(self, directions, out)

    monkeypatch.setattr(EightBits, "products", counted)
    monkeypatch.setattr(FullPrecision, "products", counted)
    with ThreadPoolExecutor(12) as pool:
        rows = list(range(24)) * 5
        found = list(pool.map(lambda row: index.best(targets, row, 10)[0].tolist(), rows))
    assert found == alone * 5
    assert sum(together) == 120
    assert max(together) > 1, "no two queries shared a pass"


def test_places_outside_the_catalogue_are_refused():
    vectors, log_popularity, top, targets = made_up(items=6000)
    index = ItemIndex(vectors, log_popularity, top)
    for place in (6000, -1):
        with pytest.raises(IndexError, match="6000 items"):
            index.best(targets, 0, 10, np.array([place]))


def test_a_pass_that_breaks_reaches_all_who_wait_for_it_and_the_next_one_works(monkeypatch):
    vectors, log_popularity, top, targets = made_up(items=6000)
    index = ItemIndex(vectors, log_popularity, top)

    def broken(self, directions, out):
        time.sleep(0.05)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch, ThreadPoolExecutor(6) as pool:
        patch.setattr(EightBits, "products", broken)
        patch.setattr(FullPrecision, "products", broken)
        waiting = [pool.submit(index.best, targets, row, 10) for row in range(6)]
        for one in waiting:
            with pytest.raises(RuntimeError, match="out of memory"):
                one.result(timeout=60)
    assert len(index.best(targets, 0, 10)[0]) == 10


def test_a_target_that_is_no_number_is_refused_with_a_sentence():
    vectors, log_popularity, top, targets = made_up()
    targets.directions["adapter"][3, 0] = np.nan
    index = ItemIndex(vectors, log_popularity, top)
    with pytest.raises(ModelError, match="no finite number"):
        index.best(targets, 3, 10)
    with pytest.raises(ModelError, match="no finite number"):
        list(index.best_many(targets, 10, [np.empty(0, np.int64)] * 6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rough_kind", [EightBits, FullPrecision])
def test_no_rough_product_is_further_off_than_its_bound(kind, rough_kind):
    generator = np.random.default_rng(1)
    vectors = catalogue(kind, 4000, 48, generator)
    rough = rough_kind(vectors, longest_row(vectors))
    directions = generator.normal(size=(7, 48)).astype(np.float32).astype(np.float64)
    directions[0] *= 1e4
    directions[1, 1:] *= 1e-3
    # Along what rounding took off a row: there its error is as large as it can be.
    scale = np.abs(vectors).max(axis=1, keepdims=True) / 127
    directions[2:] = (vectors - scale * np.rint(vectors / scale))[:5]
    directions = directions.astype(np.float32).astype(np.float64)
    out = torch.empty(len(vectors))
    for direction, (factor, constant) in zip(
        directions, rough.products(directions, out), strict=True
    ):
        off = np.abs(out.numpy() - vectors.astype(np.float64) @ direction)
        bound = factor * rough.slack.numpy().astype(np.float64) + constant
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(direction)
        assert (off <= bound + 8 * UNIT * norms).all()


def test_a_machine_that_saturates_is_noticed_and_searched_in_float32(monkeypatch):
    def saturating(left, right, *, out):
        # Processors that know only unsigned by signed add 128, and take it off again at the end;
        # two products are summed in 16 bits.
        wide, right = left.to(torch.int32) + 128, right.to(torch.int32)
        pairs = (wide[:, :, None] * right[None]).unflatten(1, (-1, 2)).sum(2)
        found = pairs.clamp(-(2**15), 2**15 - 1).sum(1) - 128 * right.sum(0)
        return out.copy_(found)

    vectors, log_popularity, top, targets = made_up()
    expected = ItemIndex(vectors, log_popularity, top).best(targets, 0, 10)[0]
    assert whole_products_hold(32)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not whole_products_hold(32)
    index = ItemIndex(vectors, log_popularity, top)
    assert index.best(targets, 0, 10)[0].tolist() == expected.tolist()


def clustered(items=20_000, dim=48, seed=0):
    """Items around centres and users between them, as texts and histories are."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(300, dim))
    vectors = centres[generator.integers(300, size=items)] + 0.5 * generator.normal(
        size=(items, dim)
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    log_popularity = np.log(generator.exponential(size=items) + 0.3)
    top = np.argsort(-log_popularity)[:100]
    directions = centres[generator.integers(300, size=(60, 4))].sum(axis=1).astype(np.float32)
    directions /= (directions @ vectors.T).std(axis=1, keepdims=True)
    targets = Targets(
        np.ones(60),
        generator.normal(size=(60, 100)),
        {"adapter": directions},
        {"adapter": np.zeros(60)},
    )
    return vectors, log_popularity, top, targets


@pytest.mark.parametrize("share", [None, 0.5])
def test_the_approximate_index_finds_most_of_the_true_best(share):
    vectors, log_popularity, top, targets = clustered()
    generator = np.random.default_rng(0)
    allowed = None if share is None else generator.random(len(vectors)) < share
    index = ItemIndex(vectors, log_popularity, top, exact_up_to=10_000)
    assert index.neighbours is not None
    used, cells = index.neighbours.cells
    assert used < cells, "every cell is looked into: nothing is approximate here"
    hits = []
    for row in range(60):
        scores = dense(vectors, log_popularity, top, targets, row)
        places, found = index.best(targets, row, 10, np.array([row]), allowed)
        assert allowed is None or allowed[places].all()
        assert row not in places
        assert found.tolist() == scores[places].tolist()
        hits.append(np.isin(ranked(scores, 10, [row], allowed), places).mean())
    assert np.mean(hits) >= 0.95


def test_a_higher_recall_is_reached_by_looking_into_more_cells():
    vectors, log_popularity, _, _ = clustered()
    low = neighbours.Neighbours(vectors, log_popularity, 0.5)
    high = neighbours.Neighbours(vectors, log_popularity, 0.99)
    assert low.cells[0] < high.cells[0]
    assert low.recall >= 0.5
    assert high.recall >= 0.99


def test_what_co_occurrence_lifts_is_found_though_the_index_does_not_know_of_it():
    vectors, log_popularity, top, targets = clustered()
    worst = int(np.argmin(dense(vectors, log_popularity, top, targets, 0)[top]))
    targets.reach[0, worst] += 1000.0
    index = ItemIndex(vectors, log_popularity, top, exact_up_to=0)
    assert index.best(targets, 0, 10)[0][0] == top[worst]


def test_what_co_occurrence_lowers_gives_its_place_to_the_next():
    vectors, log_popularity, _, targets = clustered()
    bare = Targets(targets.prior, np.zeros((60, 0)), targets.directions, targets.offsets)
    scores = dense(vectors, log_popularity, np.empty(0, dtype=np.int64), bare, 0)
    best = ranked(scores, 300)
    # All of the first 200 are covered, and G lowers every one of them.
    lowering = Targets(
        targets.prior, np.full((60, 200), -1000.0), targets.directions, targets.offsets
    )
    index = ItemIndex(vectors, log_popularity, best[:200], exact_up_to=10_000)
    assert index.neighbours is not None
    places, _ = index.best(lowering, 0, 10)
    assert np.isin(best[200:210], places).mean() >= 0.5


def test_without_faiss_a_large_catalogue_is_searched_exactly_and_the_log_says_so_once(
    monkeypatch, caplog
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    neighbours.approximate_search_is_there.cache_clear()
    vectors, log_popularity, top, targets = made_up()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            index = ItemIndex(vectors, log_popularity, top, exact_up_to=100)
    neighbours.approximate_search_is_there.cache_clear()
    assert index.neighbours is None
    scores = dense(vectors, log_popularity, top, targets, 0)
    assert index.best(targets, 0, 10)[0].tolist() == ranked(scores, 10).tolist()
    assert [r.message for r in caplog.records if "faiss is not installed" in r.message] == [
        caplog.records[0].message
    ]


@pytest.mark.slow
def test_the_bench_times_every_way_on_the_same_catalogue():
    config = parse_config({"data": {"source": "synthetic", "synthetic_items": 60}}, "a test")
    rows = measure(config, [2000], queries=20)
    assert [row.method for row in rows] == ["dense", "exact", "approximate", "exact, 8 at once"]
    assert all((row.items, row.dim) == (2000, 384) for row in rows)
    assert rows[0].recall10 == rows[1].recall10 == rows[3].recall10 == 1.0
    assert rows[2].recall10 > 0.9
