"""Files that are either whole or absent: atomic writes, hashes, and where caches live."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import RunError


def cache_dir() -> Path:
    """``$TACIT_CACHE`` or ``~/.cache/tacit``: converted models and item vectors, all public."""
    chosen = os.environ.get("TACIT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "tacit"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Bring a folder's entries to the disk: a new or renamed file then survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` that takes its place when the block ends well.

    For a moment there is neither; what was there before stays where the block does not end well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    before = path.with_name(f".{path.name}.{os.getpid()}.before")
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(before)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if before.exists() and not path.exists():
            before.rename(path)
        shutil.rmtree(before, ignore_errors=True)


@contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Hold the lock file at ``path``; it stays, and is free again when the process ends.

    Raises:
        RunError: with the sentence ``taken``, if another process holds it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(taken) from error
        yield


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def run_directory(run_config: Mapping[str, object], run_id: int) -> Path:
    """Where a run keeps its files: what its run config says, or a folder of tacit's own."""
    chosen = run_config.get("tacit.directory")
    return Path(str(chosen)) if chosen else state_dir() / "runs" / f"flower-{run_id}"


def organisations_directory(run: Path, chosen: str) -> Path:
    """Folder of a run's organisations: its own, or where ``run.organisations`` keeps them."""
    return Path(chosen) if chosen else run / "organisations"


def state_dir() -> Path:
    """``$TACIT_HOME`` or ``~/.local/share/tacit``: for runs that name no folder."""
    chosen = os.environ.get("TACIT_HOME")
    return Path(chosen) if chosen else Path.home() / ".local" / "share" / "tacit"
