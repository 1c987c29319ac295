"""What a measurement ran on, in one line."""

import os
import platform
from pathlib import Path

import torch


def machine_line(device: str = "cpu") -> str:
    """Processor or GPU, cores, threads, what multiplies bfloat16, and versions."""
    capabilities = torch.cpu.get_capabilities()
    fast = [name for name in ("avx512_f", "avx512_bf16", "amx_bf16") if capabilities.get(name)]
    parts = [
        _processor(),
        f"{os.cpu_count()} cores",
        f"{torch.get_num_threads()} threads",
        ", ".join(fast) or "no AVX-512",
        f"torch {torch.__version__}",
        f"Python {platform.python_version()}",
    ]
    if device.startswith("cuda"):
        parts.insert(0, torch.cuda.get_device_name(device))
    return "; ".join(parts)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
