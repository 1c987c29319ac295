"""The files under ``deploy/``, read as their own tools read them."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd" / "system").glob("*.service"))
TIMERS = sorted((DEPLOY / "systemd" / "system").glob("*.timer"))
# The Kubernetes manifests of each side.
FOLDERS = ("organisation", "federation")
DROP_INS = sorted((DEPLOY / "systemd" / "drop-ins").glob("*/*.conf.example"))


def directives(unit: Path) -> dict[str, list[str]]:
    """Every value of every directive of a unit, in order."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def unit(name: str) -> dict[str, list[str]]:
    """Directives of one of our units by its name."""
    return directives(DEPLOY / "systemd" / "system" / f"{name}.service")


class ComposeLoader(yaml.SafeLoader):
    """YAML with Compose's own tag for what an override takes away."""


ComposeLoader.add_constructor("!reset", lambda loader, node: "RESET")


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """A compose file, with its anchors merged."""
    text = (DEPLOY / "compose" / name).read_text()
    loaded: dict[str, Any] = yaml.load(text, ComposeLoader)
    return loaded


def manifests(folder: str) -> list[dict[str, Any]]:
    """The Kubernetes objects that a folder's kustomization names."""
    within = DEPLOY / "kubernetes" / folder
    names = yaml.safe_load((within / "kustomization.yaml").read_text())["resources"]
    return [one for name in names for one in yaml.safe_load_all((within / name).read_text())]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


def pod(folder: str) -> dict[str, Any]:
    """Pod of a folder's StatefulSet."""
    found: dict[str, Any] = of_kind(manifests(folder), "StatefulSet")["spec"]["template"]["spec"]
    return found


def tool(name: str) -> str:
    """Path of a program beside this Python or on the PATH; skips the test where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def printed(*command: str | Path) -> tuple[int, str]:
    """Exit status and all output of a command."""
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout
