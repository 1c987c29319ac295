"""Frozen weights held in eight bits: a quarter of their memory, at some cost in time."""

from torch import Tensor, nn

from shared.errors import AssetError, ModelError


def hold_in_eight_bits(layers: nn.ModuleList) -> None:
    """Round the weights of all linear layers to eight bits, each row with its own scale.

    Products are taken in the precision of what comes in; only the weights are rounded. Adapters
    put on top stay in float32 and are trained as on other weights.

    Args:
        layers: changed in place; their linear layers are ``torch.nn.Linear``.

    Raises:
        AssetError: if torchao is not installed.
        ModelError: if there is no such linear layer.
    """
    if not any(isinstance(module, nn.Linear) for module in layers.modules()):
        raise ModelError(
            "base.precision = int8: the layers of this base are not of torch.nn.Linear, and "
            "nothing would be rounded; use bfloat16 or float32"
        )
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise AssetError(
            "base.precision = int8 needs the package torchao, which is not installed; install it "
            "with: pip install -c constraints.txt 'tacit[int8]', or use bfloat16"
        ) from error
    quantize_(layers, Int8WeightOnlyConfig())


def let_go_of_file(model: nn.Module) -> None:
    """Copy what was not rounded: a single tensor of a mapped file holds all that was read of it."""
    for parameter in model.parameters():
        if type(parameter.data) is Tensor:
            parameter.data = parameter.data.clone()
