"""The units under a real systemd: what the agent's and the SuperNode's users can and cannot do.

Stand-ins run in place of tacit, with the system's Python. systemd is booted in namespaces over a
throw-away copy of this machine's files; needs root and a kernel that permits it.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy_files.reading import DEPLOY

HERE = Path(__file__).parent
PYTHON = Path("/usr/bin/python3")
SPACES = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
Found = dict[str, str]

SCENE = """
set -u
install -d -o tacit-agent -g tacit-agent -m 0700 /var/lib/tacit/org
touch /var/lib/tacit/org/policy.toml
echo "the key of the node" > /var/lib/tacit-node/key
chown tacit-node: /var/lib/tacit-node/key
chmod 0600 /var/lib/tacit-node/key
systemctl start tacit-agent.service
for i in $(seq 100); do [ -s /scene/out/agent.json ] && break; sleep 0.1; done
systemctl start tacit-supernode.service
for i in $(seq 100); do [ -s /scene/out/node.json ] && break; sleep 0.1; done
pgrep -u tacit-node -x sleep > /scene/out/helpers_before
kill -9 "$(systemctl show -p MainPID --value tacit-supernode.service)"
rm /scene/out/node.json
for i in $(seq 300); do [ -s /scene/out/node.json ] && break; sleep 0.1; done
pgrep -u tacit-node -x sleep > /scene/out/helpers_after
systemctl stop tacit-supernode.service tacit-agent.service
pgrep -u tacit-node > /scene/out/left
pgrep -u tacit-agent >> /scene/out/left
touch /scene/out/ended
"""

STAND_IN = f"""[Service]
ExecStart=
ExecStart={PYTHON} /run/stand_ins.py {{part}} /run/tacit-out/{{part}}.json
ReadWritePaths=/run/tacit-out
RestartSec=1
"""

TARGET = """[Unit]
Requires=basic.target
After=basic.target
Wants=scene.service
"""

SERVICE = """[Service]
Type=oneshot
ExecStartPre=/bin/install -m 0644 /scene/stand_ins.py /run/stand_ins.py
ExecStartPre=/bin/mkdir -m 0777 /run/tacit-out
ExecStartPre=/bin/mount --bind /scene/out /run/tacit-out
ExecStart=/bin/bash /scene/scene.sh
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=file:/scene/out/scene.log
StandardError=file:/scene/out/scene.log
"""


def lay_out(scene: Path) -> None:
    """Write the scene: stand-ins as drop-ins of our units, and a service that plays it."""
    units = scene / "units"
    for name, part in (("tacit-agent", "agent"), ("tacit-supernode", "node")):
        (units / f"{name}.service.d").mkdir(parents=True)
        drop_in = units / f"{name}.service.d" / "stand-in.conf"
        drop_in.write_text(STAND_IN.format(part=part))
    (units / "scene.target").write_text(TARGET)
    (units / "scene.service").write_text(SERVICE)
    (scene / "scene.sh").write_text(SCENE)
    (scene / "out").mkdir()
    (scene / "out").chmod(0o777)
    shutil.copy(HERE / "stand_ins.py", scene)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stand-ins wrote down."""
    if os.getuid() != 0:
        pytest.skip("needs root: systemd is booted in namespaces")
    systemd = Path("/lib/systemd/systemd")
    if not (systemd.exists() and PYTHON.exists()):
        pytest.skip("needs systemd and the system's Python")
    if (
        subprocess.run(["unshare", *SPACES, "true"], check=False, capture_output=True).returncode
        != 0
    ):
        pytest.skip("this machine permits no namespaces of one's own")
    scene, work = tmp_path_factory.mktemp("scene"), tmp_path_factory.mktemp("work")
    lay_out(scene)
    boot = ["bash", HERE / "booted.sh", work, DEPLOY / "systemd", scene]
    done = subprocess.run(
        ["unshare", *SPACES, *map(str, boot)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if not (scene / "out" / "ended").exists():
        log = scene / "out" / "scene.log"
        pytest.fail(f"{done.stdout}\n{log.read_text() if log.exists() else 'no scene'}")
    return scene / "out"


@pytest.fixture(scope="module")
def agent(out: Path) -> Found:
    """What came of what the agent's stand-in tried."""
    found: Found = json.loads((out / "agent.json").read_text())
    return found


@pytest.fixture(scope="module")
def node(out: Path) -> Found:
    """What came of what the SuperNode's stand-in tried."""
    found: Found = json.loads((out / "node.json").read_text())
    return found


def test_the_supernodes_user_asks_the_agent_and_reads_nothing_of_it(node: Found) -> None:
    assert node["ask the agent"] == "answered"
    assert node["read the ledger"] == "Permission denied"
    assert node["list the organisation's folder"] == "Permission denied"
    assert node["read the agent's settings"] == "Permission denied"


def test_the_agents_user_has_no_network_and_reads_its_own(agent: Found) -> None:
    assert agent["interfaces"] == "lo"
    assert agent["internet socket"] == "Address family not supported by protocol"
    assert agent["read the ledger"] == "what no federation may see"


def test_the_agents_user_cannot_read_the_nodes_key(agent: Found) -> None:
    assert agent["read the node's key"] == "Permission denied"


def test_the_two_run_as_different_users_and_neither_is_root(agent: Found, node: Found) -> None:
    assert len({"0", agent["user"], node["user"]}) == 3


@pytest.mark.parametrize("which", ["agent", "node"])
def test_neither_can_change_the_machine(which: str, request: pytest.FixtureRequest) -> None:
    found: Found = request.getfixturevalue(which)
    assert found["write to /etc"] == "Read-only file system"
    assert found["write to /usr"] == "Read-only file system"
    assert found["become root"] in ("Operation not permitted", "Invalid argument")


def test_a_killed_supernode_comes_back_without_the_helpers_of_its_past(out: Path) -> None:
    before = (out / "helpers_before").read_text().split()
    after = (out / "helpers_after").read_text().split()
    assert len(before) == len(after) == 1
    assert before != after


def test_nothing_runs_on_when_the_units_are_stopped(out: Path) -> None:
    assert (out / "left").read_text() == ""
