"""Checkpoint files: whole, few, and refused with a sentence where they do not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from server.aggregation import IterateAverage, ServerOptimizer, Signal
from server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from shared.adapters import Arrays
from shared.config import ServerSection
from shared.errors import RunError

PLAN = "f" * 64
ROUNDS = 6


class State:
    """What a server holds between rounds, with a made-up round to move it on."""

    def __init__(self, optimizer: str) -> None:
        self.optimizer = ServerOptimizer(ServerSection.model_validate({"optimizer": optimizer}))
        self.average = IterateAverage(0.8, ROUNDS)
        self.signal = Signal()
        self.adapter: Arrays = {
            "layer.lora_B": np.zeros((3, 2), np.float32),
            "head": np.ones(2, np.float32),
        }

    def advance(self, round_number: int) -> Checkpoint:
        generator = np.random.default_rng(round_number)
        update = {
            name: generator.normal(size=value.shape).astype(np.float32)
            for name, value in sorted(self.adapter.items())
        }
        self.adapter = self.optimizer.step(self.adapter, update)
        self.average.add(round_number, self.adapter)
        self.signal.add(update, 0.25)
        return Checkpoint.of(round_number, self.adapter, self.optimizer, self.average, self.signal)

    def resume(self, checkpoint: Checkpoint) -> None:
        checkpoint.restore(self.optimizer, self.average, self.signal)
        self.adapter = checkpoint.adapter


def saved(directory: Path, rounds: int = 3) -> State:
    state = State("adam")
    for round_number in range(1, rounds + 1):
        save_checkpoint(directory, state.advance(round_number), PLAN)
    return state


@pytest.mark.parametrize("optimizer", ["average", "momentum", "adam"])
def test_a_restored_server_goes_on_as_the_one_that_never_stopped(
    tmp_path: Path, optimizer: str
) -> None:
    unbroken = State(optimizer)
    for round_number in (1, 2, 3):
        save_checkpoint(tmp_path, unbroken.advance(round_number), PLAN)
    found = load_checkpoint(tmp_path, PLAN)
    assert found is not None
    resumed = State(optimizer)
    resumed.resume(found)
    assert found.round == 3
    for round_number in (4, 5, 6):
        unbroken.advance(round_number)
        resumed.advance(round_number)
    for name, value in unbroken.adapter.items():
        assert resumed.adapter[name].tobytes() == value.tobytes()
    for name, value in unbroken.average.result({}).items():
        assert resumed.average.result({})[name].tobytes() == value.tobytes()
    assert resumed.signal.reliability() == unbroken.signal.reliability()


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, rounds=4)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["round-00003.safetensors", "round-00004.safetensors"]


def test_a_run_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "checkpoints", PLAN) is None


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_what_to_do(tmp_path: Path, kept: float) -> None:
    saved(tmp_path)
    newest = tmp_path / "round-00003.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(RunError, match=r"round-00003\.safetensors: not a checkpoint .*remove it"):
        load_checkpoint(tmp_path, PLAN)


def test_without_the_broken_file_the_one_before_is_taken(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "round-00003.safetensors").unlink()
    found = load_checkpoint(tmp_path, PLAN)
    assert found is not None
    assert found.round == 2


def test_a_checkpoint_of_another_plan_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(RunError, match="belongs to another privacy plan"):
        load_checkpoint(tmp_path, "0" * 64)


@pytest.mark.parametrize("state", [None, "{", "{}", json.dumps({"plan": PLAN})])
def test_a_safetensors_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, state: str | None
) -> None:
    saved(tmp_path)
    newest = tmp_path / "round-00003.safetensors"
    save_file(load_file(newest), newest, metadata=None if state is None else {"state": state})
    with pytest.raises(RunError, match="not a checkpoint"):
        load_checkpoint(tmp_path, PLAN)


def test_an_interrupted_write_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = saved(tmp_path, rounds=2)

    def broken(arrays: Arrays, path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("server.checkpoint.save_file", broken)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, state.advance(3), PLAN)
    found = load_checkpoint(tmp_path, PLAN)
    assert found is not None
    assert found.round == 2
    assert len(list(tmp_path.iterdir())) == 2
