"""Rating prediction of a run: figures as by hand, on screen, in the records and on the page."""

import dataclasses
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from shared.adapters import HEAD_FILE, load_adapter, load_arrays
from shared.config import Config
from shared.delivery import statistics_from_arrays
from shared.models import load_model
from shared.ratings import RatingErrors, standardised
from simulations.ratings import rating_lines, rmse_interval
from simulations.records import RatingRecord, append_record, read_records
from simulations.report import write_report
from simulations.simulate import simulate
from simulations.tables import print_ratings
from simulations.world import World

MakeConfig = Callable[..., Config]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run folder, its configuration, and what stood on the screen."""

    folder: Path
    config: Config
    screen: str

    @property
    def lines(self) -> list[RatingRecord]:
        found = read_records(self.folder / "metrics.jsonl")
        return [record for record in found if isinstance(record, RatingRecord)]


def run(config: Config, folder: Path) -> Finished:
    screen = io.StringIO()
    simulate(config, folder, Console(file=screen, width=120))
    return Finished(folder, config, screen.getvalue())


@pytest.fixture(scope="module")
def finished(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = make_config(model={"rating_weight": 2.0, "rating_low": 0.5})
    return run(config, tmp_path_factory.mktemp("runs") / "run")


def text_of(page: Path) -> str:
    """What a reader sees, without tags and charts."""
    bare = re.sub(r"<(style|head|svg)\b.*?</\1>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).split())


def held_out(world: World) -> tuple[list[float], list[float], list[float]]:
    """Each user's last rating, mean before it, and what may be learnt from, by plain loops."""
    histories = world.dataset.histories
    assert histories.ratings is not None
    given, means, learnt = [], [], []
    for user in range(len(histories)):
        row = histories.ratings[histories.offsets[user] : histories.offsets[user + 1]].tolist()
        given.append(row[-1])
        means.append(sum(row[:-1]) / (len(row) - 1))
        learnt.extend(row[:-2])
    return given, means, learnt


def errors(predicted: list[float], given: list[float]) -> tuple[float, float]:
    pairs = list(zip(predicted, given, strict=True))
    squares = sum((p - g) ** 2 for p, g in pairs) / len(pairs)
    return squares**0.5, sum(abs(p - g) for p, g in pairs) / len(pairs)


def test_the_means_are_as_by_hand(finished: Finished, world: World) -> None:
    given, means, learnt = held_out(world)
    overall = sum(learnt) / len(learnt)
    by_method = {line.method: line for line in finished.lines if line.method != "rating_head"}
    for method, predicted in (("global_mean", [overall] * len(given)), ("user_mean", means)):
        rmse, mae = errors(predicted, given)
        assert by_method[method].rmse == pytest.approx(rmse, abs=1e-5)
        assert by_method[method].mae == pytest.approx(mae, abs=1e-5)
        assert by_method[method].users == len(given)
        assert not by_method[method].private


def test_a_factorisation_of_all_ratings_pooled_stands_beside_them(finished: Finished) -> None:
    line = next(line for line in finished.lines if line.method == "biased_mf")
    best = min(other.rmse for other in finished.lines if other.method.endswith("_mean"))
    assert 0.0 < line.rmse < best + 0.5
    assert not line.private
    assert re.search(r"Biased matrix\s+factorisation .*none, data\s+pooled", finished.screen)


def test_the_heads_errors_are_those_of_the_delivered_model(
    finished: Finished, world: World
) -> None:
    """Of the model as torch runs it, user by user, from the files in the run's folder."""
    given, means, _ = held_out(world)
    loaded = load_model(finished.config)
    arrays, _ = load_adapter(loaded.model, finished.folder / "adapter")
    load_arrays(loaded.model, arrays)
    delivered = load_file(finished.folder / "statistics" / "statistics.safetensors")
    statistics = statistics_from_arrays(delivered, world.dataset.catalogue)
    head = loaded.model.rating_head
    assert head is not None
    items = torch.from_numpy(world.vectors)
    standing = standardised(torch.from_numpy(statistics.log_popularity)).float()
    predicted = []
    for user, mean in enumerate(means):
        item = torch.from_numpy(world.dataset.histories.row(user)[-1:].copy())
        with torch.no_grad():
            residual = float(head(items[item][None], standing[item][None])[0, 0])
        predicted.append(min(5.0, max(0.5, mean + 2.25 * residual)))
    rmse, mae = errors(predicted, given)
    line = next(r for r in finished.lines if r.method == "rating_head" and r.noise == "own")
    assert line.rmse == pytest.approx(rmse, abs=1e-4)
    assert line.mae == pytest.approx(mae, abs=1e-4)
    assert abs(rmse - errors(means, given)[0]) > 1e-3


def test_every_federations_head_has_its_line_and_its_guarantee(finished: Finished) -> None:
    heads = [line for line in finished.lines if line.method == "rating_head"]
    assert [(line.noise, line.epsilon, line.private) for line in heads] == [
        ("own", finished.config.privacy.epsilon, True),
        ("none", None, False),
    ]
    for line in heads:
        assert line.low is not None
        assert line.high is not None
        assert line.low < line.high


def test_the_head_lies_beside_the_adapter_everywhere(finished: Finished) -> None:
    own = (finished.folder / "adapter" / HEAD_FILE).read_bytes()
    for house in ("0001", "0002"):
        delivered = finished.folder / "organisations" / house / "delivered" / "adapter"
        assert (delivered / HEAD_FILE).read_bytes() == own


def test_the_screen_and_the_page_show_the_errors(finished: Finished) -> None:
    page = text_of(finished.folder / "report.html")
    assert "Predicted ratings" in page
    assert "Predicting the rating of the held-out item" in finished.screen
    for line in finished.lines:
        assert f"{line.rmse:.3f}" in page
        assert f"{line.mae:.3f}" in page
        assert re.search(rf"{line.label} .*{line.rmse:.3f} .*{line.mae:.3f}", finished.screen)


def test_a_resumed_run_shows_each_prediction_once(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text((finished.folder / "config.toml").read_text())
    for _ in range(2):
        for line in finished.lines:
            append_record(tmp_path / "metrics.jsonl", line)
    page = text_of(write_report(tmp_path))
    assert page.count("own mean") == 1
    assert page.count("Rating head") == 2


def test_the_page_says_where_a_difference_may_be_chance(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text((finished.folder / "config.toml").read_text())
    head = next(line for line in finished.lines if line.method == "rating_head")
    for name, low, high in (("sure", -0.05, -0.01), ("chance", -0.05, 0.01)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.toml").write_text((finished.folder / "config.toml").read_text())
        append_record(folder / "metrics.jsonl", head.model_copy(update={"low": low, "high": high}))
        assert ("may be chance" in text_of(write_report(folder))) == (name == "chance")


def test_no_errors_are_reported_where_no_ratings_are_predicted(
    make_config: MakeConfig, world: World, tmp_path: Path
) -> None:
    bare = run(make_config(run={"noise_free_twin": False}, training={"rounds": 1}), tmp_path / "a")
    assert bare.lines == []
    assert "rating of the held-out" not in bare.screen
    assert "Predicted ratings" not in text_of(bare.folder / "report.html")
    assert not (bare.folder / "adapter" / HEAD_FILE).exists()


def test_data_without_ratings_gives_no_lines_but_a_sentence(
    make_config: MakeConfig, world: World
) -> None:
    histories = dataclasses.replace(world.dataset.histories, ratings=None)
    bare = World(
        make_config(model={"rating_weight": 1.0}),
        dataclasses.replace(world.dataset, histories=histories),
        world.organisations,
    )
    assert rating_lines(bare, bare.config, []) == []
    screen = io.StringIO()
    print_ratings(Console(file=screen, width=120), [])
    assert "no held-out interaction has a rating" in " ".join(screen.getvalue().split())


def test_the_interval_is_of_the_difference_of_roots_over_users_paired() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=2000)
    one, other = RatingErrors(noise * 1.1), RatingErrors(noise)
    low, high = rmse_interval(one, other, 1000, 0)
    expected = 0.1 * other.rmse
    assert low < expected < high
    # Unpaired it would be some twenty times as wide.
    assert high - low < 0.02
    assert rmse_interval(one, other, 1000, 0) == (low, high)
    swapped = rmse_interval(other, one, 1000, 0)
    assert swapped == pytest.approx((-high, -low))
