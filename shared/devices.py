"""Where tensors live and in which precision they are multiplied."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from shared.errors import ConfigError

LONGEST_PLAIN_WINDOW = 200


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a process.

    Attributes:
        device: as torch names it.
        precision: of products, ``float32`` or ``bfloat16``.
        weights: in which the frozen layers of a user model are held, ``float32`` or ``int8``.
    """

    device: str
    precision: str
    weights: str = "float32"

    def attention(self, window: int) -> str:
        """Which attention of transformers reads windows of so many positions."""
        # On a CPU plain products beat the fused kernel, whose backward pass took 37% of a private
        # step at 50 positions, until the matrices of long windows leave the cache. On a GPU it
        # picks a flash kernel.
        return "eager" if self.device == "cpu" and window <= LONGEST_PLAIN_WINDOW else "sdpa"

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for matrix products; parameters and reductions stay float32."""
        return torch.autocast(
            self.device.partition(":")[0],
            dtype=torch.bfloat16,
            enabled=self.precision == "bfloat16",
        )


def choose_runtime(device: str, precision: str, threads: int) -> Runtime:
    """Resolve ``auto``; set torch's thread count (0: as many as this process may use).

    ``int8`` is about weights; their products are taken as by ``auto``.

    Raises:
        ConfigError: for a device this machine does not have, and for eight bits on a GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"run.device: {device} asked for, but torch sees no CUDA device; use cpu")
    # Set even for 0: Ray's workers start with one thread, and equal counts give equal sums.
    torch.set_num_threads(threads or os.cpu_count() or 1)
    weights = "int8" if precision == "int8" else "float32"
    if weights == "int8" and device != "cpu":
        raise ConfigError(
            f"base.precision: int8 was tried on processors only, and the device is {device}; use "
            "bfloat16, or run.device = cpu"
        )
    if precision in ("auto", "int8"):
        precision = "bfloat16" if _fast_bfloat16(device) else "float32"
    return Runtime(device, precision, weights)


def _fast_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
