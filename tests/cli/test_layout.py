"""The layout is the architecture: who may import whom, and what every module says of itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("audit", "client", "server", "shared", "simulations")
MODULES = sorted(
    path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")
)


def test_the_import_rules_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("needs import-linter (make env)")
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_a_modules_first_line_says_what_it_is_for(module: str) -> None:
    text = (ROOT / module).read_text()
    assert text.startswith('"""')
    first = (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]
    assert len(first) > 15
    assert first.endswith(".")


def test_there_are_modules_to_look_at() -> None:
    assert {module.split("/")[0] for module in MODULES} == set(PACKAGES)
