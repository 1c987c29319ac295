"""Lighter user models: what they are taught on, and how near they stay."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from shared.config import Config
from shared.scoring import Scorer, Scores
from shared.sections import to_toml
from shared.statistics import Statistics
from shared.user_model import UserModel, build_user_model
from simulations.bench.cli import bench_app
from simulations.bench.lighter import (
    POPULAR_STEPS,
    Lessons,
    in_eight_bits,
    layers_mb,
    lighter_ways,
    made_up,
    student_of,
    taught,
)
from simulations.world import World

MakeConfig = Callable[..., Config]
ITEMS, COVERED, LENGTH = 40, 30, 12


@pytest.fixture(scope="module")
def released() -> Statistics:
    """Each item of the first ``COVERED`` leads to the next one alone; all are as popular."""
    transition = np.roll(np.eye(COVERED), 1, axis=1) - 0.1
    return Statistics(np.zeros(ITEMS), np.arange(COVERED), transition)


@pytest.fixture(scope="module")
def scorer(world: World) -> Scorer:
    """A user model with a made-up adapter merged, and made-up statistics."""
    loaded = world.loaded
    generator = np.random.default_rng(0)
    adapter = {
        name: value + generator.normal(0, 0.2, value.shape).astype(np.float32)
        for name, value in loaded.initial.items()
    }
    near = generator.normal(size=(COVERED, COVERED))
    known = Statistics(generator.normal(size=world.items), np.arange(COVERED), near)
    config, vectors = world.config, world.vectors
    # Opacus's hooks may be on the model that all tests of a configuration share.
    own = build_user_model(loaded.start, loaded.options, loaded.runtime, config.run.seed)
    whole = Scorer(config, known, vectors, adapter, own, loaded.runtime)
    return whole.with_merged_adapter()


def model_of(scorer: Scorer) -> UserModel:
    assert scorer.model is not None
    return scorer.model


def directions(scorer: Scorer, model: UserModel, seed: int = 7) -> Scores:
    histories = made_up(scorer.statistics, 50, LENGTH, seed)
    hidden = replace(scorer, model=model).hidden(histories, np.arange(50))
    return np.asarray(hidden / np.linalg.norm(hidden, axis=1, keepdims=True), dtype=np.float32)


def cosine(a: Scores, b: Scores) -> float:
    return float((a * b).sum(axis=1).mean())


def test_made_up_histories_follow_from_released_statistics_and_a_seed(released: Statistics) -> None:
    first, again = made_up(released, 100, LENGTH, 3), made_up(released, 100, LENGTH, 3)
    assert first.items.tolist() == again.items.tolist()
    assert first.items.tolist() != made_up(released, 100, LENGTH, 4).items.tolist()
    assert first.lengths.tolist() == [LENGTH] * 100
    popular = replace(released, log_popularity=np.log(np.arange(1.0, ITEMS + 1)))
    assert first.items.tolist() != made_up(popular, 100, LENGTH, 3).items.tolist()
    back = replace(released, transition=released.transition.T)
    assert first.items.tolist() != made_up(back, 100, LENGTH, 3).items.tolist()


def test_a_made_up_history_walks_to_what_is_near_and_now_and_then_to_what_is_popular(
    released: Statistics,
) -> None:
    walks = made_up(released, 2000, 2, 0).items.reshape(2000, 2)
    covered = walks[walks[:, 0] < COVERED]
    near = ((covered[:, 0] + 1) % COVERED == covered[:, 1]).mean()
    # Some 1,500 draws, 5 deviations: fails by chance once in more than a million runs.
    assert near == pytest.approx(1 - POPULAR_STEPS, abs=0.06)
    # From where G does not reach, a step goes anywhere.
    assert len(np.unique(walks[walks[:, 0] >= COVERED, 1])) == ITEMS


def test_a_made_up_history_has_an_item_once_where_there_are_enough(released: Statistics) -> None:
    near = np.random.default_rng(0).random((COVERED, COVERED))
    statistics = replace(released, transition=near)
    walks = made_up(statistics, 300, LENGTH, 0).items.reshape(300, LENGTH)
    distinct = np.mean([len(np.unique(walk)) for walk in walks])
    assert distinct > LENGTH - 0.1


def test_where_no_item_is_covered_all_steps_go_by_popularity(released: Statistics) -> None:
    nothing = Statistics(released.log_popularity, np.empty(0, dtype=np.int64), np.empty((0, 0)))
    assert len(np.unique(made_up(nothing, 500, 2, 0).items)) == ITEMS


def test_eight_bits_are_others_and_look_the_same_way(scorer: Scorer) -> None:
    model = model_of(scorer)
    light = in_eight_bits(model)
    whole, rounded = directions(scorer, model), directions(scorer, light)
    assert not np.array_equal(whole, rounded)
    assert (whole * rounded).sum(axis=1).min() > 0.98
    assert layers_mb(light)[0] == layers_mb(model)[0] == 2
    assert layers_mb(light)[1] < 0.4 * layers_mb(model)[1]
    # Made from a copy.
    assert np.array_equal(whole, directions(scorer, model))


def test_a_student_comes_nearer_to_its_teacher(scorer: Scorer) -> None:
    teacher = model_of(scorer)
    assert scorer.runtime is not None
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    lessons = Lessons(layers=1, histories=128, epochs=3)
    made = made_up(scorer.statistics, lessons.histories, LENGTH, 0)
    student = taught(teacher, lessons, made, scorer.vectors, scorer.runtime)
    wanted = directions(scorer, teacher)
    untaught = 1.0 - cosine(directions(scorer, student_of(teacher, 1).eval()), wanted)
    found = 1.0 - cosine(directions(scorer, student), wanted)
    assert 0.0 < found < 0.8 * untaught
    assert layers_mb(student)[0] == 1
    assert layers_mb(student)[1] == pytest.approx(layers_mb(teacher)[1] / 2)
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())


def test_every_way_is_made_without_any_history(scorer: Scorer) -> None:
    ways = lighter_ways(scorer, Lessons(layers=1, histories=40, epochs=1))
    assert list(ways) == ["as trained", "int8", "student, 1 layer", "student, 1 layer, int8"]
    assert [layers_mb(model_of(way))[0] for way in ways.values()] == [2, 2, 1, 1]
    whole, rounded, student, both = (layers_mb(model_of(way))[1] for way in ways.values())
    assert whole > student > both
    assert whole > rounded > both


def arguments(config: Config, folder: Path) -> list[str]:
    (folder / "config.toml").write_text(to_toml(config))
    options = ["--config", str(folder / "config.toml"), "--json", str(folder / "rows.json")]
    return ["lighter", *options, "--histories", "50", "--epochs", "1"]


@pytest.mark.slow
def test_lighter_user_models_are_ranked_and_timed(make_config: MakeConfig, tmp_path: Path) -> None:
    result = CliRunner().invoke(bench_app, arguments(make_config(), tmp_path))
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["layers"] for row in rows] == [2, 2, 1, 1]
    assert rows[0]["ndcg10_less_first"] == rows[0]["low"] == rows[0]["high"] == 0.0
    assert rows[0]["cosine"] == pytest.approx(1.0, abs=1e-4)
    for row in rows:
        assert row["ndcg10_less_first"] == pytest.approx(row["ndcg10"] - rows[0]["ndcg10"])
        assert row["users_per_s"] > 0
        assert row["history_ms"] > 0


def test_a_student_has_fewer_layers_than_its_teacher(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    options = [*arguments(make_config(), tmp_path), "--student-layers", "2"]
    result = CliRunner().invoke(bench_app, options)
    assert result.exit_code != 0
    assert "give the student fewer" in str(result.exception)
