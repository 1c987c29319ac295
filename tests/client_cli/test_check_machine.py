"""``tacit client check``: the model, the SuperNode's folder, the socket and the machine."""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client import machine, model_check
from client.model_check import micro_batch
from client.readiness import outcomes, scene
from client.settings import AgentSettings, settings_path
from tests.client_cli.looking import amend, found, replace

Tacit = Callable[..., Any]


def test_a_base_that_the_policy_does_not_allow_fails(tacit: Tacit, made: Any) -> None:
    policy = (made.org / "policy.toml").read_text()
    allowed = next(line for line in policy.splitlines() if line.startswith("allowed_bases"))
    amend(made, tacit, allowed, f'allowed_bases = ["{"0" * 64}"]')
    outcome = found(made, "model weights")
    assert outcome.state == "failed"
    assert "which the policy does not allow" in outcome.sentence


def test_a_policy_that_allows_any_base_is_warned_of(tacit: Tacit, made: Any) -> None:
    policy = (made.org / "policy.toml").read_text()
    allowed = next(line for line in policy.splitlines() if line.startswith("allowed_bases"))
    amend(made, tacit, allowed, "allowed_bases = []")
    assert found(made, "model weights").state == "warning"


def test_weights_that_are_not_here_fail(made: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    replace(settings_path(made.org), 'name = "minilm"', f'name = "{tmp_path / "empty"}"')
    outcome = found(made, "model weights")
    assert outcome.state == "failed"
    assert "expected config.json" in outcome.sentence


def test_gradients_that_are_not_per_user_fail(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The self-check finds it in nature only where versions do not fit.
    from client import directory
    from shared.errors import ModelError

    def differs(*_: object) -> None:
        raise ModelError("per-user gradients differ")

    monkeypatch.setattr(directory, "trainable_model", differs)
    outcome = found(made, "model", quick=False)
    assert outcome.state == "failed"
    assert "per-user gradients differ" in outcome.sentence


def test_a_device_that_is_not_here_fails(made: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    replace(settings_path(made.org), 'device = "auto"', 'device = "cuda"')
    outcome = found(made, "model", quick=False)
    assert outcome.state == "failed"
    assert "no CUDA device" in outcome.sentence


def test_a_pretended_gpu_whose_memory_is_too_small_fails(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def out_of_memory(*_: object) -> int:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(model_check, "micro_batch", out_of_memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (10**9, 8 * 10**9))
    outcome = found(made, "model", quick=False)
    assert outcome.state == "failed"
    assert "1.0 GB free, 8.0 GB in all" in outcome.sentence
    assert "machine.micro_batch_rows" in outcome.cure


def test_the_made_up_step_leaves_the_model_as_it_was(made: Any) -> None:
    from client.data.store import read_store
    from client.directory import resources_of

    config = AgentSettings.load(settings_path(made.org)).to_config()
    catalogue, _ = read_store(made.org / "histories.duckdb")
    trainable = resources_of(catalogue, config).trainable
    before = {name: p.detach().clone() for name, p in trainable.model.trained.items()}
    micro_batch(trainable, 500, config)
    for name, parameter in trainable.model.trained.items():
        assert parameter.equal(before[name])
        assert parameter.grad is None
        assert getattr(parameter, "grad_sample", None) is None


def test_a_group_that_is_not_here_fails(made: Any) -> None:
    assert found(made, "socket").state == "ok"
    replace(settings_path(made.org), 'socket_group = ""', 'socket_group = "nobody-of-this-name"')
    outcome = found(made, "socket")
    assert outcome.state == "failed"
    assert "has no group nobody-of-this-name" in outcome.sentence


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from client.readiness import folder
from client.settings import AgentSettings, settings_path
from client.two_users import node_folder, socket_place
org, node, loaded = Path(sys.argv[1]), Path(sys.argv[2]), AgentSettings.load(Path(sys.argv[3]))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for one in (folder(org), node_folder(org, node), socket_place(org, loaded)):
    print(one.state, one.sentence)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_whose_folders_they_are(first_made: Any) -> None:
    # Not below pytest's own folder, which only one user can enter.
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        org, node = Path(open_to_all) / "org", Path(open_to_all) / "org-node"
        shutil.copytree(first_made.org, org)
        shutil.copytree(first_made.node, node)
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(org), str(node), str(settings_path(org))],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stdout.splitlines() == [
        f"failed {org} belongs to another user",
        f"skipped {node} belongs to another user, as it should",
        f"failed this user cannot write to {node}, where agent.sock is to be",
    ], done.stderr


def test_a_node_inside_the_organisation_or_around_it_fails(made: Any) -> None:
    inside = made.org / "node"
    shutil.copytree(made.node, inside)
    seen = scene(made.org, inside, None, None, True)
    assert next(o for o in outcomes(seen) if o.name == "SuperNode").state == "failed"
    seen = scene(made.org, made.org.parent, None, None, True)
    assert next(o for o in outcomes(seen) if o.name == "SuperNode").state == "failed"


def test_a_node_key_that_others_can_read_fails(made: Any) -> None:
    assert found(made, "SuperNode").state == "ok"
    (made.node / "key").chmod(0o640)
    outcome = found(made, "SuperNode")
    assert outcome.state == "failed"
    assert outcome.cure == f"chmod 600 {made.node / 'key'}"


def test_a_node_key_of_another_kind_fails(made: Any) -> None:
    (made.node / "key").write_bytes((made.org / "keys" / "organisation.pem").read_bytes())
    outcome = found(made, "SuperNode")
    assert outcome.state == "failed"
    assert "OpenSSH form" in outcome.sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand a folder to another user")
def test_a_node_of_another_user_is_left_to_that_user(made: Any, tmp_path: Path) -> None:
    os.chown(made.node, 65534, 65534)
    outcome = found(made, "SuperNode")
    assert outcome.state == "failed"
    assert "belong to different users" in outcome.sentence
    os.chown(made.node / "key", 65534, 65534)
    assert found(made, "SuperNode").state == "ok"


@pytest.mark.parametrize(
    ("free", "state"), [(99 * 10**6, "failed"), (999 * 10**6, "warning"), (10**9, "ok")]
)
def test_a_pretended_full_disk_is_told(
    made: Any, monkeypatch: pytest.MonkeyPatch, free: int, state: str
) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert found(made, "disk").state == state


def test_a_pretended_kernel_without_randomness_fails(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks(*_: object) -> bytes:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(machine.os, "getrandom", blocks)
    assert found(made, "randomness").state == "failed"


def test_a_pretended_kernel_that_repeats_itself_fails(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "getrandom", lambda *_: bytes(32))
    outcome = found(made, "randomness")
    assert outcome.state == "failed"
    assert "noise would repeat" in outcome.sentence


@pytest.mark.parametrize(("limit", "state"), [(255, "failed"), (512, "warning"), (1024, "ok")])
def test_a_low_limit_of_open_files_is_told(
    monkeypatch: pytest.MonkeyPatch, limit: int, state: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert machine.open_files().state == state
