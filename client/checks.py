"""Proofs at start: gradients are per user, and a saved adapter comes back as it was.

Newer PEFT ruined DP-LoRA without an error (Opacus #820), and hooks and ghost clipping differed
(#692); epsilon says nothing about a gradient that is wrong. Each check costs a fraction of a
second and runs once per model.
"""

import math
import tempfile
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from peft import PeftModel
from torch import Tensor, nn

from client.trainer import Trainable
from shared.adapters import peft_model
from shared.errors import ModelError
from shared.models import LoadedModel
from shared.user_model import Rows, UserModel, load_backbone, row_losses

MADE_UP_ITEMS = 50
PERTURBATION = 0.05
EXACT_TOLERANCE = 1e-3
# bfloat16 keeps 8 bits: differences of a few percent are rounding, a wrong factor is not.
MIXED_TOLERANCE = 0.1


def verify_gradients(trainable_model: Trainable, seed: int = 0) -> float:
    """Compare per-row gradients with one backward pass per row, on made-up rows and items.

    Guards against the silent failures of hooks over adapters (Opacus #820, #692): runs once per
    model before any training, in float32 and, where training is mixed, in that precision too.

    Returns:
        Largest relative difference over rows in float32.

    Raises:
        ModelError: if a difference is more than rounding explains, or a layer has no gradients.
    """
    exact = _largest_difference(trainable_model, nullcontext(), seed)
    _refuse_beyond(exact, EXACT_TOLERANCE)
    if trainable_model.runtime.precision != "float32":
        mixed = _largest_difference(trainable_model, trainable_model.runtime.autocast(), seed)
        _refuse_beyond(mixed, MIXED_TOLERANCE)
    return exact


def _refuse_beyond(difference: float, tolerance: float) -> None:
    if not difference < tolerance:
        raise ModelError(
            f"per-user gradients differ from row-by-row autograd by {difference:.1e} (relative): "
            "these versions of torch, peft and opacus do not clip what they claim to; nothing is "
            "trained"
        )


def _largest_difference(
    trainable_model: Trainable, precision: AbstractContextManager[object], seed: int
) -> float:
    model, runtime = trainable_model.model, trainable_model.runtime
    generator = torch.Generator().manual_seed(seed)
    items = made_up_items(model, generator).to(runtime.device)
    lengths = [7, 3, 5]
    inputs = torch.randint(len(items), (3, 7), generator=generator)
    targets = torch.randint(len(items), (3, 7), generator=generator)
    for row, length in enumerate(lengths):
        inputs[row, length:], targets[row, length:] = 0, -1
    # For a rating head; some items have no rating.
    ratings = 4.0 * torch.rand((3, 8), generator=generator) + 1.0
    ratings[:, 2] = torch.nan
    prior = torch.randn(len(items), generator=generator).to(runtime.device)
    rows = Rows(inputs.to(runtime.device), targets.to(runtime.device), ratings.to(runtime.device))
    parameters = list(model.trained.values())
    saved = [p.detach().clone() for p in parameters]
    differences: list[float] = []
    try:
        perturb(parameters, generator)
        with precision:
            losses = row_losses(trainable_model.wrapped, rows, items, prior, model.temperature)
            torch.autograd.backward(losses.sum())
            together = torch.cat([_samples(p, len(lengths)) for p in parameters], dim=1)
            trainable_model.wrapped.disable_hooks()
            for row, length in enumerate(lengths):
                one = slice(row, row + 1)
                single = Rows(
                    rows.inputs[one, :length],
                    rows.targets[one, :length],
                    ratings[one, : length + 1].to(runtime.device),
                )
                loss = row_losses(model, single, items, prior, model.temperature).sum()
                gradients = torch.autograd.grad(loss, parameters)
                alone = torch.cat([g.reshape(-1).float() for g in gradients])
                differences.append(float((together[row] - alone).norm() / alone.norm()))
    finally:
        trainable_model.wrapped.enable_hooks()
        restore(parameters, saved)
    # One that is not a number counts as infinite; the built-in max would pass over it.
    return max(math.inf if math.isnan(found) else found for found in differences)


def _samples(parameter: nn.Parameter, rows: int) -> Tensor:
    found = getattr(parameter, "grad_sample", None)
    if not isinstance(found, Tensor):
        raise ModelError(
            "an adapted layer gives no per-user gradients: Opacus's hooks do not reach it in these "
            "versions of torch, peft and opacus; nothing is trained"
        )
    return found.reshape(rows, -1).float()


def verify_reload(loaded: LoadedModel, seed: int = 0) -> float:
    """Save the adapter, load it with ``PeftModel.from_pretrained``, and compare hidden states.

    Returns:
        Largest absolute difference.

    Raises:
        ModelError: if the reloaded adapter does not give the same.
    """
    model, runtime = loaded.model, loaded.runtime
    generator = torch.Generator().manual_seed(seed)
    rows = made_up_items(model, generator)[:6].reshape(2, 3, -1).to(runtime.device)
    parameters = list(model.trained.values())
    saved = [p.detach().clone() for p in parameters]
    try:
        perturb(parameters, generator)
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peft_model(model).save_pretrained(scratch, save_embedding_layers=False)
            backbone = load_backbone(
                loaded.start.path,
                loaded.options.layers,
                loaded.options.layers_from,
                runtime.weights,
            )
            backbone.to(runtime.device)  # type: ignore[arg-type]
            again = PeftModel.from_pretrained(backbone, scratch)
        reloaded = UserModel(again, model.input_scale, model.temperature).eval()
        with torch.no_grad():
            worst = float((model(rows) - reloaded(rows)).abs().max())
    finally:
        restore(parameters, saved)
    if not worst < 1e-4:
        raise ModelError(
            f"an adapter that was saved and loaded again gives hidden states that differ by "
            f"{worst:.1e}: these versions of transformers and peft lose it; nothing is trained"
        )
    return worst


def made_up_items(model: UserModel, generator: torch.Generator) -> Tensor:
    """Random unit vectors in the model's space, ``[MADE_UP_ITEMS, dim] float32``."""
    dim = int(peft_model(model).config.hidden_size)
    return nn.functional.normalize(torch.randn(MADE_UP_ITEMS, dim, generator=generator), dim=-1)


def perturb(parameters: list[nn.Parameter], generator: torch.Generator) -> None:
    """Move parameters away from their start: at B = 0 many faults do not show."""
    with torch.no_grad():
        for p in parameters:
            p.add_(PERTURBATION * torch.randn(p.shape, generator=generator).to(p.device))


def restore(parameters: list[nn.Parameter], saved: list[Tensor]) -> None:
    """Put parameters back and drop their gradients."""
    with torch.no_grad():
        for p, value in zip(parameters, saved, strict=True):
            p.copy_(value)
            p.grad, p.grad_sample = None, None  # type: ignore[attr-defined]
