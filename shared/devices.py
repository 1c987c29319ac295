"""Where tensors live and in which precision they are multiplied."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from shared.errors import ConfigError


@dataclass(frozen=True)
class Runtime:
    """Device and precision of a process. ``precision`` is ``float32`` or ``bfloat16``."""

    device: str
    precision: str

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision for matrix products; parameters and reductions stay float32."""
        return torch.autocast(
            self.device.partition(":")[0],
            dtype=torch.bfloat16,
            enabled=self.precision == "bfloat16",
        )


def choose_runtime(device: str, precision: str, threads: int) -> Runtime:
    """Resolve ``auto``; set torch's thread count (0: as many as this process may use).

    Raises:
        ConfigError: for a device this machine does not have.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"run.device: {device} asked for, but torch sees no CUDA device; use cpu")
    # Set even for 0: Ray's workers start with one thread, and equal counts give equal sums.
    torch.set_num_threads(threads or os.cpu_count() or 1)
    if precision == "auto":
        precision = "bfloat16" if _fast_bfloat16(device) else "float32"
    return Runtime(device, precision)


def _fast_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
