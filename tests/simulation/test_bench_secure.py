"""``tacit bench secure`` at sizes so small that only what it counts matters."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.session import Session
from shared.config import Config
from shared.errors import FederationError
from shared.fixed_point import Words
from simulations.bench import noise_families
from simulations.bench.cli import bench_app
from simulations.bench.secure import SecureRow, measure

STAGES = (
    "keys_s",
    "shares_s",
    "opening_s",
    "noise_s",
    "masks_s",
    "packing_s",
    "unmask_s",
    "disk_s",
    "server_shares_s",
    "server_vectors_s",
    "server_unmask_s",
    "server_decode_s",
)


def bench(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the command and return its JSON."""
    file = folder / "rows.json"
    result = CliRunner().invoke(
        bench_app, ["secure", *arguments, "--json", str(file)], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="module")
def rows() -> list[SecureRow]:
    """Sums of 100 and of 10,000 numbers of 8 organisations, one of which may be lost."""
    return measure(Config(), [8], [100, 10_000], lost=3)


def test_the_command_writes_a_row_for_every_size(tmp_path: Path) -> None:
    sizes = ["--coordinates", "50", "--coordinates", "60"]
    found = bench(tmp_path, "--organisations", "3", "--organisations", "4", *sizes)
    assert [(row["organisations"], row["coordinates"]) for row in found["rows"]] == [
        (3, 50),
        (4, 50),
        (3, 60),
        (4, 60),
    ]
    assert [row["least"] for row in found["rows"]] == [3, 4, 3, 4]


def test_every_stage_takes_time(rows: list[SecureRow]) -> None:
    for row in rows:
        assert [name for name in STAGES if not getattr(row, name) > 0.0] == []


def test_no_more_are_lost_than_a_plan_allows(rows: list[SecureRow]) -> None:
    assert [(row.organisations, row.least, row.lost) for row in rows] == [(8, 7, 1), (8, 7, 1)]


def test_bytes_grow_by_a_masked_number_up_and_by_a_float32_down(rows: list[SecureRow]) -> None:
    few, many = rows
    # 8,000 users and noise: five bytes are enough.
    assert few.word_bytes == many.word_bytes == 5
    # Numbers are written in the requests and replies, too: some digits more.
    assert many.up_bytes - few.up_bytes == pytest.approx(5 * 9900, abs=50)
    assert many.down_bytes - few.down_bytes == pytest.approx(4 * 9900, abs=50)
    assert many.up_ratio == many.up_bytes / 40_000
    assert 1.25 < many.up_ratio < 2.0 < few.up_ratio


def test_a_sum_that_is_not_that_of_what_went_in_is_no_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masked = Session.masked

    def off_by_one(session: Session, words: Words, word_bytes: int) -> Any:
        return masked(session, words + words.dtype.type(1), word_bytes)

    monkeypatch.setattr(Session, "masked", off_by_one)
    with pytest.raises(FederationError, match="a secure sum of 3 organisations is not the sum of"):
        measure(Config(), [3], [20])


def test_families_of_noise_are_compared_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_families, "BITS", (8,))
    monkeypatch.setattr(noise_families, "MULTIPLIERS", (4.0,))
    few = functools.partial(noise_families.measure, samples=100)
    monkeypatch.setattr(noise_families, "measure", few)
    rows = bench(tmp_path, "--families")["rows"]
    assert [row["family"] for row in rows] == ["discrete Gaussian", "Skellam"]
    assert [row["number_bits"] for row in rows] == [21, 21]
