"""What the documentation names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "threats.md").read_text())


def test_the_threats_name_their_tests() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_the_threats_name_is_there(file: str, test: str) -> None:
    assert f"def {test or 'test_'}" in (ROOT / file).read_text()


@pytest.mark.parametrize("page", [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"])
def test_every_page_and_picture_that_a_page_points_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert all((page.parent / link).exists() for link in links if "://" not in link)
