"""Records of a run: written line by line, read back, broken lines told apart from cut ones."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.errors import RunError
from simulations.records import (
    ComparisonRecord,
    DatasetRecord,
    OrganisationRecord,
    Record,
    ReleaseSummary,
    RoundRecord,
    TimingRecord,
    WeightRecord,
    append_record,
    read_records,
)

RECORDS: list[Record] = [
    DatasetRecord(
        name="films", users=2, items=3, interactions=4, organisations=1, notices=("Zeile\nü",)
    ),
    RoundRecord(
        run="private", round=1, rounds=2, epsilon=1.5, seconds=0.1, update_norm=0.2, replies=1
    ),
    ComparisonRecord(a="federation", b="statistics", metric="ndcg", mean=0.1, low=-0.1, high=0.3),
    WeightRecord(run="private", part="texts", weight=0.4, most=0.8, lift=None),
    OrganisationRecord(
        name="org-1",
        declared_users=2,
        epsilon_spent=1.0,
        epsilon_alone=1.5,
        epsilon_budget=8.0,
        delta=1e-5,
        releases=(ReleaseSummary(what="popularity", times=1, bytes=24, sigma=2.0),),
    ),
]


def _written(path: Path, records: list[Record]) -> Path:
    for record in records:
        append_record(path, record)
    return path


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert read_records(_written(tmp_path / "metrics.jsonl", RECORDS)) == RECORDS


def test_rounds_of_a_version_that_knew_no_stages_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"event":"round","run":"private","round":1,"rounds":2,"epsilon":1.5,"seconds":0.1,'
        '"overhead_ms":null,"update_norm":0.2,"replies":1}\n'
    )
    assert read_records(path) == [RECORDS[1]]


def test_every_record_takes_one_line(tmp_path: Path) -> None:
    path = _written(tmp_path / "metrics.jsonl", RECORDS)
    assert path.read_bytes().count(b"\n") == len(RECORDS)


def test_the_documented_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event":"timing","stage":"vectors","seconds":2}\n')
    assert read_records(path) == [TimingRecord(stage="vectors", seconds=2.0)]


@given(cut=st.integers(min_value=1, max_value=10_000))
def test_a_file_cut_anywhere_gives_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = _written(tmp_path_factory.mktemp("cut") / "metrics.jsonl", RECORDS)
    content = path.read_bytes()[:-cut]
    path.write_bytes(content)
    assert read_records(path) == RECORDS[: content.count(b"\n")]


@pytest.mark.parametrize("left", [b'{"event":"tim', b"x" * 10_000])
def test_a_line_added_after_a_crash_is_not_glued_to_what_the_crash_left(
    tmp_path: Path, left: bytes
) -> None:
    path = _written(tmp_path / "metrics.jsonl", RECORDS[:1])
    with path.open("ab") as file:
        file.write(left)
    append_record(path, RECORDS[1])
    assert read_records(path) == RECORDS[:2]


def test_what_a_crash_left_of_the_first_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"event":')
    append_record(path, RECORDS[0])
    assert read_records(path) == RECORDS[:1]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "Invalid JSON"),
        ("", "Invalid JSON"),
        ('{"event":"party"}', "party"),
        ('{"event":"timing","stage":"vectors"}', "seconds"),
        ('{"event":"timing","stage":"vectors","seconds":-1}', "seconds"),
        ('{"event":"timing","stage":"vectors","seconds":1,"minutes":2}', "minutes"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: str, problem: str) -> None:
    path = _written(tmp_path / "metrics.jsonl", RECORDS[:2])
    with path.open("a") as file:
        file.write(line + "\n")
    append_record(path, RECORDS[2])
    with pytest.raises(RunError, match=rf"metrics\.jsonl, line 3: .*{problem}"):
        read_records(path)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"metrics\.jsonl: no such file"):
        read_records(tmp_path / "metrics.jsonl")


def test_an_infinite_epsilon_is_written_as_no_bound() -> None:
    record = OrganisationRecord(
        name="a",
        declared_users=1,
        epsilon_spent=math.inf,
        epsilon_alone=math.inf,
        epsilon_budget=8.0,
        delta=0.1,
        releases=(),
    )
    assert (record.epsilon_spent, record.epsilon_alone) == (None, None)


def test_a_figure_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite"):
        ComparisonRecord(a="a", b="b", metric="ndcg", mean=math.nan, low=0.0, high=0.0)
