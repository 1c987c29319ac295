"""``tacit client recommend``: from an organisation's folder, with what a federation delivered."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.data.store import read_store
from shared.config import load_config
from shared.settings import shared_settings

Tacit = Callable[..., Any]

LINE = re.compile(r"^ *(\d+)  (.+?)  +(.*?) *(-?\d+\.\d\d) *$", re.MULTILINE)


@pytest.fixture(scope="module")
def delivered(
    shop: Path, call_tacit: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a federation over the same data delivers, as an agent keeps it."""
    run = tmp_path_factory.mktemp("runs") / "shop"
    small = ["run.threads=1", "run.noise_free_twin=false", "evaluation.bootstrap_samples=100"]
    options = ["--data", str(shop), "--orgs", "1", "--rounds", "1", "--out", str(run)]
    assert (
        call_tacit("simulate", *options, *(part for one in small for part in ("--set", one))) == 0
    )
    folder = run / "organisations" / "0001" / "delivered"
    (folder / "settings.json").write_text(shared_settings(load_config(run / "config.toml")))
    return folder


@pytest.fixture
def served(made: Any, delivered: Path) -> Any:
    """An organisation that has a delivery."""
    shutil.copytree(delivered, made.org / "delivered")
    return made


def test_a_list_has_the_asked_length_and_nothing_that_the_user_has_had(
    tacit: Tacit, served: Any
) -> None:
    catalogue, histories = read_store(served.org / "histories.duckdb")
    had = {catalogue.titles[item] for item in histories.row(histories.user_ids.index("u3"))}
    done = tacit("client", "recommend", str(served.org), "--user", "u3", "-k", "5")
    assert done.status == 0
    titles = [title for _, title, _, _ in LINE.findall(done.out)]
    assert len(titles) == 5
    assert not had & set(titles)
    assert "u3 of House, lately:" in done.out


def test_a_need_is_repeated_and_moves_the_scores(tacit: Tacit, served: Any) -> None:
    plain = tacit("client", "recommend", str(served.org), "--user", "u3")
    wanted = tacit("client", "recommend", str(served.org), "--user", "u3", "--need", "a blue thing")
    assert "looking for: a blue thing" in wanted.out
    assert LINE.findall(plain.out) != LINE.findall(wanted.out)


def test_settings_of_the_delivery_decide_how_scores_are_fused(tacit: Tacit, served: Any) -> None:
    before = LINE.findall(tacit("client", "recommend", str(served.org), "--user", "u3").out)
    path = served.org / "delivered" / "settings.json"
    text = path.read_text()
    assert '"weight":0.9' in text
    path.write_text(text.replace('"weight":0.9', '"weight":0.0'))
    after = LINE.findall(tacit("client", "recommend", str(served.org), "--user", "u3").out)
    assert before != after


def test_a_user_who_is_not_there_is_told(tacit: Tacit, served: Any) -> None:
    done = tacit("client", "recommend", str(served.org), "--user", "nobody")
    assert done.status == 2
    assert "House has no user 'nobody'" in done.err


def test_an_organisation_without_a_delivery_is_told(tacit: Tacit, made: Any) -> None:
    done = tacit("client", "recommend", str(made.org), "--user", "u3")
    assert done.status == 2
    assert "the federation has delivered nothing yet" in done.err
