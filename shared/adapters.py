"""Adapters as arrays in messages and as PEFT directories on disk; safetensors, never pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from shared.errors import FederationError, RunError
from shared.files import atomic_path, write_json
from shared.ratings import HEAD
from shared.user_model import UserModel

Arrays = dict[str, npt.NDArray[np.float32]]

HEAD_FILE = "rating_head.safetensors"


def adapter_arrays(model: UserModel) -> Arrays:
    """Copies of the trained parameters: what a federation sends and averages."""
    return {n: p.detach().cpu().float().numpy().copy() for n, p in model.trained.items()}


def load_arrays(model: UserModel, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Set the trained parameters.

    Raises:
        FederationError: if a name, a shape or a value does not fit; nothing is set then.
    """
    parameters = model.trained
    check_arrays({n: tuple(p.shape) for n, p in parameters.items()}, arrays)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))


def check_arrays(
    shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, npt.NDArray[np.float32]]
) -> None:
    """Refuse arrays of other names, dtype or shape than expected, or that are not finite.

    Raises:
        FederationError: names the array and what is wrong with it.
    """
    if set(arrays) != set(shapes):
        strange = sorted(set(arrays) ^ set(shapes))
        raise FederationError(f"adapter arrays: {strange[:3]} missing or not expected")
    for name, shape in shapes.items():
        value = arrays[name]
        if value.dtype != np.float32 or value.shape != tuple(shape):
            raise FederationError(
                f"adapter array {name}: {value.dtype} {value.shape}, expected float32 {shape}"
            )
        if not np.isfinite(value).all():
            raise FederationError(f"adapter array {name}: has values that are not finite")


def frozen_sha256(model: UserModel) -> str:
    """Hash of the frozen adapter factors: must be equal on every client for FFA's exact mean."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_" in name and not parameter.requires_grad:
            digest.update(name.encode() + parameter.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def peft_model(model: UserModel) -> PeftModel:
    """The PEFT model inside a user model."""
    inner = model.backbone
    assert isinstance(inner, PeftModel)
    return inner


def save_adapter(model: UserModel, directory: Path, card: str, reliability: float) -> None:
    """Write ``adapter_config.json``, ``adapter_model.safetensors`` and the card ``README.md``.

    ``tacit.json`` beside them keeps the adapter's reliability, which scales its weight at scoring,
    and ``rating_head.safetensors`` the rating head where the model has one.

    The directory loads with ``PeftModel.from_pretrained(base, directory)``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    # Without this PEFT asks the model hub whether the vocabulary was changed, and waits for it.
    peft_model(model).save_pretrained(
        str(directory), safe_serialization=True, save_embedding_layers=False
    )
    head = {n: value for n, value in adapter_arrays(model).items() if n.startswith(HEAD)}
    if head:
        with atomic_path(directory / HEAD_FILE) as temporary:
            save_file(head, temporary)
    else:
        # Of an earlier run that had one.
        (directory / HEAD_FILE).unlink(missing_ok=True)
    (directory / "README.md").write_text(card)
    write_json(directory / "tacit.json", {"reliability": reliability})


def load_adapter(model: UserModel, directory: Path) -> tuple[Arrays, float]:
    """Trained arrays and reliability of a PEFT directory, for a model of the same settings.

    Raises:
        FederationError: if an array does not fit.
        RunError: if the directory has no adapter, no rating head although the model has one, or a
            file cannot be read.
    """
    path = directory / "adapter_model.safetensors"
    if not path.exists():
        raise RunError(f"{path}: is not there; the directory holds no adapter")
    state = _read(path)
    arrays = {
        name: state[key]
        for name in model.trained
        if (key := name.removeprefix("backbone.").replace(".default.", ".")) in state
    }
    if model.rating_head is not None:
        arrays |= _read_head(directory / HEAD_FILE)
    check_arrays({n: tuple(p.shape) for n, p in model.trained.items()}, arrays)
    return arrays, float(json.loads((directory / "tacit.json").read_text())["reliability"])


def _read_head(path: Path) -> Arrays:
    if not path.exists():
        raise RunError(
            f"{path}: is not there, and the run's settings predict ratings (model.rating_weight is "
            "above 0); deliver the adapter anew, or restore the file"
        )
    return _read(path)


def _read(path: Path) -> Arrays:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(
            f"{path}: cannot be read as safetensors ({error}); deliver the adapter anew, or "
            "restore the file"
        ) from error
