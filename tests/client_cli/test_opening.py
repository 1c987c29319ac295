"""Opening what was delivered, again and again; a folder that is replaced whole or not at all."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from client.recommend.opening import Opener, delivered_config, stamp_of
from client.recommend.query import Query
from shared.errors import RunError, TacitError
from shared.files import atomic_directory


@dataclass(frozen=True)
class Opened:
    """An organisation with a delivery, and what opens it."""

    org: Path
    opener: Opener


@pytest.fixture
def opened(served: Any) -> Opened:
    return Opened(served.org, Opener(served.org, delivered_config))


def test_the_delivery_is_named(opened: Opened) -> None:
    recommender = opened.opener.open()
    facts = json.loads((opened.org / "delivered" / "adapter" / "delivery.json").read_text())
    assert (recommender.delivery.run, recommender.delivery.round) == (facts["run"], 1)
    assert recommender.delivery.stamp == stamp_of(opened.org)


def test_data_is_kept_from_one_opening_to_the_next_until_it_changes(opened: Opened) -> None:
    first, second = opened.opener.open(), opened.opener.open()
    assert second.histories is first.histories
    assert second.encoder is first.encoder
    assert second.recommend("u3", Query()) == first.recommend("u3", Query())
    os.utime(opened.org / "histories.duckdb")
    assert opened.opener.open().histories is not first.histories


@pytest.mark.parametrize(
    "name", ["histories.duckdb", "delivered/statistics.safetensors", "agent.toml"]
)
def test_the_stamp_changes_with_what_was_written(opened: Opened, name: str) -> None:
    before = stamp_of(opened.org)
    os.utime(opened.org / name)
    assert stamp_of(opened.org) != before


BROKEN: dict[str, Callable[[Path], object]] = {
    "no name of the run": lambda adapter: (adapter / "delivery.json").unlink(),
    "half a name": lambda adapter: (adapter / "delivery.json").write_text('{"run": "x"'),
    "no weights": lambda adapter: (adapter / "adapter_model.safetensors").unlink(),
    "cut weights": lambda adapter: os.truncate(adapter / "adapter_model.safetensors", 100),
    "no statistics": lambda adapter: (adapter.parent / "statistics.safetensors").unlink(),
    "no settings": lambda adapter: (adapter.parent / "settings.json").unlink(),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_a_delivery_that_is_not_whole_is_refused_with_a_sentence(
    opened: Opened, fault: Callable[[Path], object]
) -> None:
    fault(opened.org / "delivered" / "adapter")
    with pytest.raises(TacitError):
        opened.opener.open()


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").write_text("old")
    with atomic_directory(tmp_path / "kept") as folder:
        (folder / "new").write_text("new")
        assert (tmp_path / "kept" / "old").exists()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").write_text("old")

    def replace() -> None:
        with atomic_directory(tmp_path / "kept") as folder:
            (folder / "new").write_text("new")
            raise RunError("the disk is full")

    with pytest.raises(RunError, match="the disk is full"):
        replace()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_first_folder_needs_none_before(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "a" / "b") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "a" / "b" / "new").read_text() == "new"
