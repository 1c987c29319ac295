"""The command line, run in this process; a small run with the real MiniLM for recommendations."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from shared.assets import resolve_base
from shared.errors import AssetError
from simulations.cli import main

FILMS = {
    "Horror": [
        "The Haunted House",
        "Night of the Zombies",
        "The Vampire's Curse",
        "Screams in the Cellar",
        "The Possessed Doll",
        "Blood Moon Slaughter",
        "The Ghost Ship",
        "Demon in the Mirror",
    ],
    "Romance": [
        "Love in Paris",
        "The Wedding Letter",
        "Kiss Me by the Sea",
        "Hearts Entwined",
        "A Summer Romance",
        "The Bride's Secret",
        "Two Hearts in Venice",
        "The Love Song",
    ],
    "Science Fiction": [
        "Voyage to Mars",
        "The Robot Uprising",
        "Starship Endeavour",
        "Time Machine Paradox",
        "Aliens Over Earth",
        "Colony on the Moon",
        "The Android Dream",
        "Galaxy at War",
    ],
}
USERS, LENGTH = 24, 8


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status and what it printed."""

    status: int
    out: str
    err: str


Tacit = Callable[..., Finished]


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of these tests stay out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TACIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture
def tacit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tacit:
    """Run ``tacit`` with some arguments."""

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["tacit", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        printed = capsys.readouterr()
        code = caught.value.code
        return Finished(code if isinstance(code, int) else 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who each like one kind of film best, as CSV."""
    folder = tmp_path_factory.mktemp("films")
    titles = [(title, genre) for genre, names in FILMS.items() for title in names]
    items = [f'f{i},"{title}",{genre}' for i, (title, genre) in enumerate(titles)]
    (folder / "items.csv").write_text("\n".join(["item,title,genres", *items]) + "\n")
    generator, rows = np.random.default_rng(0), ["user,item,time"]
    for user in range(USERS):
        kind = user % len(FILMS)
        weights = np.array([4.0 if i // 8 == kind else 1.0 for i in range(len(titles))])
        chosen = generator.choice(len(titles), LENGTH, replace=False, p=weights / weights.sum())
        rows += [f"u{user},f{item},{1000 + place}" for place, item in enumerate(chosen)]
    (folder / "interactions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def film_run(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over the films with the real MiniLM."""
    try:
        resolve_base("minilm")
    except AssetError as error:
        pytest.skip(f"needs the real MiniLM: {error}")
    out = tmp_path_factory.mktemp("runs") / "films"
    options = ["--data", str(films), "--orgs", "2", "--rounds", "1", "--out", str(out)]
    small = ["run.threads=1", "run.noise_free_twin=false", "evaluation.bootstrap_samples=100"]
    # Noise of the operating system over so few users would give other lists each time.
    small.append("privacy.noise=none")
    argv = ["tacit", "simulate", *options, *(part for one in small for part in ("--set", one))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as caught:
            main()
    assert caught.value.code in (0, None)
    return out
