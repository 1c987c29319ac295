"""A run with a share for evaluation: what the server is told is the exact figure, but for noise."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from client.directory import open_ledger
from shared.config import Config
from simulations import records
from simulations.simulate import simulate

SHARES = {
    "popularity_share": 0.3,
    "cooccurrence_share": 0.2,
    "adapter_share": 0.0,
    "evaluation_share": 0.5,
}


def told_and_exact(
    config: Config, folder: Path
) -> tuple[records.PrivateEvaluationRecord, records.ResultRecord]:
    simulate(config, folder, Console(file=io.StringIO()))
    found = records.read_records(folder / "metrics.jsonl")
    (told,) = [r for r in found if isinstance(r, records.PrivateEvaluationRecord)]
    (exact,) = [r for r in found if isinstance(r, records.ResultRecord) and r.method == "texts"]
    return told, exact


def test_without_noise_the_server_is_told_the_exact_figures_on_the_held_out_items(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    privacy = SHARES | {"noise": "none"}
    config = make_config(privacy=privacy, training={"rounds": 0}, run={"noise_free_twin": False})
    told, exact = told_and_exact(config, tmp_path / "run")
    assert told.hr == pytest.approx(exact.hr, abs=1e-6)
    assert told.ndcg == pytest.approx(exact.ndcg, abs=1e-6)
    assert told.hr_deviation == 0.0


def test_the_estimate_lies_within_six_deviations_of_the_exact_figure(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Wrong about four times in 10^9, once for each of two figures, where the noise is normal.

    The estimates are quotients, so epsilon is large enough that the divisor's noise is small.
    """
    config = make_config(
        privacy=SHARES | {"epsilon": 50.0},
        training={"rounds": 0},
        run={"noise_free_twin": False},
    )
    folder = tmp_path / "run"
    told, exact = told_and_exact(config, folder)
    assert 0.0 < told.hr_deviation < 0.2
    assert abs(told.hr - exact.hr) < 6.0 * told.hr_deviation
    assert abs(told.ndcg - exact.ndcg) < 6.0 * told.ndcg_deviation
    for name in ("0001", "0002"):
        with open_ledger(folder / "organisations" / name) as ledger:
            assert [intent.mechanism for intent in ledger.intents()].count("evaluation") == 1
            assert ledger.spent() <= 50.0
