"""The user model: LoRA-tuned layers of a base that read item vectors and predict the next item.

After each position of a history the last hidden state is compared with all item vectors:
``score = cosine / temperature + log popularity`` (the prior is a public or already private vector).
The hierarchy of an item encoder and a user model follows HLLM (Chen et al. 2024, arXiv 2409.12740);
freezing A is FFA-LoRA (Sun et al., ICLR 2024). Where ratings are predicted, a small head beside the
adapter (``shared.ratings``) is trained in the same step.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from shared.assets import Base
from shared.config import ModelSection
from shared.devices import Runtime
from shared.encoder import POOLED_TYPES, Vectors
from shared.errors import ModelError
from shared.quantised import hold_in_eight_bits, let_go_of_file
from shared.ratings import RatingHead, RatingScale
from shared.softmax import Candidates, next_item_losses

# Item vectors enter at this many times the norm of the base's own embeddings, so that they and not
# the position embeddings carry the input (measured on ml-100k, no noise: NDCG@10 0.058 against
# 0.056).
INPUT_GAIN = 4.0
LAYER_STACKS = ("encoder.layer", "layers", "h", "transformer.layer")


@dataclass(frozen=True)
class Rows:
    """A batch of users' windows, padded at the right. Private.

    Attributes:
        inputs: ``[rows, positions] int64`` places in the catalogue; padding is 0.
        targets: ``[rows, positions] int64`` the next item, or -1 where there is none.
        ratings: ``[rows, positions + 1] float32`` of the inputs and the item after the last, NaN
            where there is none; None where the data has no ratings.
    """

    inputs: Tensor
    targets: Tensor
    ratings: Tensor | None = None


class PassThrough(nn.Module):
    """Stands in for a layer that the user model leaves out, so that the others keep their names."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class UserModel(nn.Module):
    """Backbone with adapters, the frozen scale of its inputs, and the score's temperature.

    Attributes:
        trained: the parameters that are trained, by name, in a fixed order.
        rating_head: predicts ratings; None where ``model.rating_weight`` is 0.
        companion: what a client keeps beside the model to train it; lives as long as the model.
    """

    def __init__(
        self,
        backbone: nn.Module,
        input_scale: float,
        temperature: float,
        rating_head: RatingHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rating_head = rating_head
        self.input_scale = input_scale
        self.temperature = temperature
        self.companion: object = None
        self.trained: dict[str, nn.Parameter] = {
            name: p for name, p in sorted(self.named_parameters()) if p.requires_grad
        }

    @property
    def positions(self) -> int:
        """Most positions that the backbone reads."""
        config = self.backbone.config
        return int(getattr(config, "max_position_embeddings", sys.maxsize))

    def forward(self, embedded: Tensor) -> Tensor:
        """Hidden states ``[rows, positions, dim]`` of item vectors ``[rows, positions, dim]``."""
        hidden: Tensor = self.backbone(
            inputs_embeds=embedded * self.input_scale, use_cache=False
        ).last_hidden_state
        return hidden


def load_backbone(
    path: Path,
    layers: int,
    layers_from: str,
    weights: str = "float32",
    attention: str = "eager",
) -> PreTrainedModel:
    """The base with all but ``layers`` of its layers passed through, causal, without dropout.

    Args:
        path: of the base.
        layers, layers_from: which of its layers are kept.
        weights: ``float32``, or ``int8`` for linear layers in eight bits.
        attention: implementation of transformers, by ``Runtime.attention``.

    Raises:
        ModelError: for a base of an unknown structure or with fewer layers.
        AssetError: for ``int8`` where the package that it needs is not installed.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    for name in vars(config).copy():
        # Dropout would make a user's gradient random; every family has its own names for it.
        if "drop" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    extra: dict[str, Any] = {}
    if config.model_type in POOLED_TYPES:
        config.is_decoder = True
        extra["add_pooling_layer"] = False
    model: PreTrainedModel = AutoModel.from_pretrained(
        path,
        config=config,
        attn_implementation=attention,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        **extra,
    )
    stack = layer_stack(model)
    if layers > len(stack):
        raise ModelError(f"model.layers = {layers}: {path.name} has only {len(stack)} layers")
    kept = range(len(stack) - layers, len(stack)) if layers_from == "top" else range(layers)
    for index in range(len(stack)):
        if index not in kept:
            stack[index] = PassThrough()
    if weights == "int8":
        hold_in_eight_bits(stack)
    model.requires_grad_(False)
    return model


def build_user_model(base: Base, options: ModelSection, runtime: Runtime, seed: int) -> UserModel:
    """Load the base (or its warm start), keep the configured layers and add adapters.

    The frozen A of every adapter is drawn from ``seed`` on the CPU, so that every client that
    builds the model holds the same one.
    """
    backbone = load_backbone(
        base.path,
        options.layers,
        options.layers_from,
        runtime.weights,
        runtime.attention(options.window),
    )
    scale = input_scale(backbone)
    # Item vectors enter in place of words, whose table is a fifth of SmolLM2.
    backbone.set_input_embeddings(nn.Embedding(1, int(backbone.config.hidden_size)))
    backbone.requires_grad_(False)
    if runtime.weights == "int8":
        let_go_of_file(backbone)
    # Opacus #820, #830: to its device before get_peft_model.
    backbone.to(runtime.device)  # type: ignore[arg-type]
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=target_modules(backbone, options.targets),
        fan_in_fan_out=_has_conv1d(backbone),
    )
    with warnings.catch_warnings():
        # PEFT warns that it renames the base to this machine's path; that is put right below.
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path.*")
        # Nor that it cannot merge into weights of eight bits, which nobody asks it to do.
        warnings.filterwarnings("ignore", message=".*get_apply_tensor_subclass.*")
        adapted = get_peft_model(backbone, lora)
    adapted.peft_config["default"].base_model_name_or_path = base.reference
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(adapted.named_parameters()):
        if ".lora_A." in name:
            bound = (3.0 / parameter.shape[1]) ** 0.5
            values = torch.rand(parameter.shape, generator=generator) * 2 * bound - bound
            parameter.data.copy_(values)
            parameter.requires_grad_(options.adapter == "lora")
        elif ".lora_B." in name:
            parameter.data.zero_()
    return UserModel(adapted, scale, options.temperature, _rating_head(backbone, options, runtime))


def rating_scale(options: ModelSection) -> RatingScale:
    """The public scale of ratings as configured."""
    return RatingScale(options.rating_low, options.rating_high)


def input_scale(backbone: PreTrainedModel) -> float:
    """Norm at which item vectors enter: ``INPUT_GAIN`` times that of the base's own embeddings."""
    weight = backbone.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return INPUT_GAIN * float(weight.norm(dim=1).median())


def target_modules(backbone: nn.Module, names: Sequence[str]) -> list[str]:
    """Full names of the linear layers to adapt: in kept layers, last part in ``names``.

    Raises:
        ModelError: if a name matches nothing; says which names there are.
    """
    stack = layer_stack(backbone)
    prefix = next(n for n, module in backbone.named_modules() if module is stack)
    linear = [
        f"{prefix}.{name}"
        for name, module in stack.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    parts = sorted({name.rpartition(".")[2] for name in linear})
    for wanted in names:
        if wanted not in parts:
            raise ModelError(f"model.targets: {wanted!r} matches no layer; there are {parts}")
    return [n for n in linear if not names or n.rpartition(".")[2] in names]


def row_losses(
    model: nn.Module,
    rows: Rows,
    items: Tensor,
    prior: Tensor,
    temperature: float,
    candidates: Candidates | None = None,
) -> Tensor:
    """Cross-entropy over the catalogue, the mean over each row's positions: ``[rows] float32``.

    An item that the window has shown before a target is no rival of it (``next_item_losses``).
    A model with a rating head adds its weight times the mean squared error of the row's ratings.
    Nothing in a row's loss depends on another row: padding stands at the right of a causal model
    and is left out of the mean; the normaliser runs over the public catalogue or a public sample.

    Args:
        model: a ``UserModel`` or a wrapper of one.
        rows: the windows.
        items: ``[items, dim]`` unit item vectors.
        prior: ``[items] float32`` log popularity, public or released.
        temperature: of the cosine.
        candidates: of the normaliser, by ``public_candidates``; None: all items.
    """
    hidden = model(items[rows.inputs].float())
    valid = rows.targets >= 0
    direction = nn.functional.normalize(hidden[valid].float(), dim=-1)
    targets = rows.targets[valid]
    owner, place = valid.nonzero(as_tuple=True)
    losses = next_item_losses(
        direction,
        targets,
        items,
        prior,
        temperature,
        candidates,
        had_before(rows.inputs[owner], place, targets),
    )
    count = valid.sum(1).clamp(min=1)
    total = torch.zeros(len(count), device=losses.device).index_add(0, owner, losses)
    means = total / count
    head: RatingHead | None = getattr(model, "rating_head", None)
    if head is None:
        return means
    return means + head.weight * head.losses(items, rows.targets, prior, rows.ratings)


def had_before(windows: Tensor, place: Tensor, targets: Tensor) -> Tensor:
    """``[pairs, 2]``: position, and each item of its window up to there that is not its target."""
    steps = torch.arange(windows.shape[1], device=windows.device)
    shown = (steps <= place[:, None]) & (windows != targets[:, None])
    position, step = shown.nonzero(as_tuple=True)
    return torch.stack([position, windows[position, step]], dim=1)


def last_hidden(model: UserModel, windows: Tensor, lengths: Tensor, items: Tensor) -> Tensor:
    """Hidden state after each window's last item, ``[rows, dim] float32``."""
    hidden = model(items[windows].float())
    last: Tensor = hidden[torch.arange(len(lengths)), lengths - 1]
    return last.float()


def pad_windows(
    histories: Sequence[npt.NDArray[np.int64]], window: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The newest ``window`` items of each history, ``[rows, longest] int64``, and their lengths."""
    cut = [h[-window:] for h in histories]
    lengths = np.array([len(h) for h in cut], dtype=np.int64)
    padded = np.zeros((len(cut), max(1, int(lengths.max(initial=1)))), dtype=np.int64)
    for row, values in enumerate(cut):
        padded[row, : len(values)] = values
    return padded, lengths


def item_tensor(vectors: Vectors, device: str, precision: str) -> Tensor:
    """Item vectors on a device; in bfloat16 where products are taken in it."""
    tensor = torch.from_numpy(vectors).to(device)
    return tensor.bfloat16() if precision == "bfloat16" else tensor


def layer_stack(model: nn.Module) -> nn.ModuleList:
    """The stack of a model's layers, in place.

    Raises:
        ModelError: for a model of an unknown structure.
    """
    for name in LAYER_STACKS:
        module: Any = model
        for part in name.split("."):
            module = getattr(module, part, None)
        if isinstance(module, nn.ModuleList):
            return module
    raise ModelError(
        f"{type(model).__name__}: no stack of layers found under {', '.join(LAYER_STACKS)}; "
        "tacit knows BERT-type and GPT-type bases"
    )


def _rating_head(
    backbone: PreTrainedModel, options: ModelSection, runtime: Runtime
) -> RatingHead | None:
    if not options.rating_weight:
        return None
    dim = int(backbone.config.hidden_size)
    return RatingHead(dim, rating_scale(options), options.rating_weight).to(runtime.device)


def _has_conv1d(model: nn.Module) -> bool:
    return any(type(module).__name__ == "Conv1D" for module in model.modules())
