"""The units: systemd accepts them, and what they promise stands in them."""

import re
import sys
from pathlib import Path

import pytest

from tests.deploy_files.reading import (
    DEPLOY,
    DROP_INS,
    TIMERS,
    UNITS,
    directives,
    printed,
    tool,
    unit,
)

# Highest exposure that `systemd-analyze security` may print, of 10; what systemd 252 printed is
# 0.8, 0.7, 1.2 and 1.4.
EXPOSURE = {
    "tacit-agent": 1.0,
    "tacit-refresh": 1.0,
    "tacit-supernode": 1.5,
    "tacit-superlink": 1.5,
}
# The refresh runs to its end; the others run until they are stopped.
SERVICES = [path for path in UNITS if path.stem != "tacit-refresh"]
PROGRAM = "/opt/tacit/bin/tacit"


def placed(units: list[Path], into: Path, drop_ins: list[Path] | None = None) -> list[Path]:
    """Copies of units that name a program of this machine, with drop-ins in force."""
    here = str(Path(sys.executable).with_name("tacit"))
    copies = []
    for one in units:
        copy = into / one.name
        copy.write_text(one.read_text().replace(PROGRAM, here))
        copies.append(copy)
    for one in drop_ins or []:
        folder = into / one.parent.name
        folder.mkdir(exist_ok=True)
        (folder / one.name.removesuffix(".example")).write_text(one.read_text())
    return copies


@pytest.mark.parametrize("drop_ins", [[], *([one] for one in DROP_INS)], ids=str)
def test_systemd_finds_nothing_wrong(drop_ins: list[Path], tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    status, out = printed(
        analyze, "verify", "--man=no", *placed([*UNITS, *TIMERS], tmp_path, drop_ins)
    )
    assert (status, out) == (0, "")


def test_a_misspelt_directive_would_be_found(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    (copy,) = placed(UNITS[:1], tmp_path)
    copy.write_text(copy.read_text().replace("[Install]", "PrivateNetworks=yes\n[Install]"))
    assert "PrivateNetworks" in printed(analyze, "verify", "--man=no", copy)[1]


@pytest.mark.parametrize("name", EXPOSURE)
def test_a_unit_is_as_confined_as_stated(name: str) -> None:
    analyze = tool("systemd-analyze")
    path = DEPLOY / "systemd" / "system" / f"{name}.service"
    _, out = printed(analyze, "security", "--offline=true", "--no-pager", path)
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", out)
    assert level is not None, out
    assert float(level[1]) <= EXPOSURE[name]


def test_every_unit_has_its_stated_exposure() -> None:
    assert {path.stem for path in UNITS} == set(EXPOSURE)


@pytest.mark.parametrize("name", ["tacit-agent", "tacit-refresh"])
def test_what_holds_the_data_has_no_network(name: str) -> None:
    found = unit(name)
    assert found["PrivateNetwork"] == ["yes"]
    assert found["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert found["IPAddressDeny"] == ["any"]


def test_a_database_over_tcp_opens_one_address_and_no_more() -> None:
    opened = directives(
        DEPLOY / "systemd/drop-ins/tacit-refresh.service.d/postgresql-tcp.conf.example"
    )
    assert "IPAddressDeny" not in opened
    assert opened["IPAddressAllow"] == ["192.0.2.10"]


def test_the_supernode_has_no_way_to_the_data() -> None:
    agent, node = unit("tacit-agent"), unit("tacit-supernode")
    hidden = {path.removeprefix("-") for line in node["InaccessiblePaths"] for path in line.split()}
    (state,), (cache,) = agent["StateDirectory"], agent["CacheDirectory"]
    settings = unit("tacit-refresh")["EnvironmentFile"]
    assert {f"/var/lib/{state}", f"/var/cache/{cache}", *settings} <= hidden
    assert node["StateDirectory"] != agent["StateDirectory"]
    assert "SupplementaryGroups" not in node
    assert node["User"] != agent["User"]
    assert node["Group"] != agent["Group"]


def test_only_the_socket_is_shared() -> None:
    agent, node = unit("tacit-agent"), unit("tacit-supernode")
    assert agent["ReadWritePaths"] == ["/run/tacit"]
    assert "ReadWritePaths" not in node
    assert agent["SupplementaryGroups"] == node["Group"]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_unit_comes_back_and_leaves_nothing_behind(path: Path) -> None:
    found = directives(path)
    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert found["KillMode"] == ["mixed"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_users_folders_and_settings_of_a_unit_are_provided(path: Path) -> None:
    found = directives(path)
    systemd = DEPLOY / "systemd"
    users = "".join(file.read_text() for file in (systemd / "sysusers.d").iterdir())
    folders = "".join(file.read_text() for file in (systemd / "tmpfiles.d").iterdir())
    (user,), (state,) = found["User"], found["StateDirectory"]
    assert re.search(rf"^u +{user} ", users, re.MULTILINE)
    assert re.search(rf"^d +/var/lib/{state} +0700 {user} ", folders, re.MULTILINE)
    files = [systemd / "etc" / Path(settings).name for settings in found["EnvironmentFile"]]
    given = {name for file in files for name in directives(file)}
    assert set(re.findall(r"\$\{(\w+)\}", found["ExecStart"][0])) <= given


def test_the_sockets_folder_opens_for_the_supernodes_group_alone() -> None:
    text = (DEPLOY / "systemd/tmpfiles.d/tacit-organisation.conf").read_text()
    assert re.search(r"^d +/run/tacit +0750 tacit-agent +tacit-node ", text, re.MULTILINE)
