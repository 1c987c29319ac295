"""Which code computes a release: version and hash of what runs at the organisation."""

import functools
import hashlib
from importlib.metadata import version
from pathlib import Path

import client
import shared


@functools.cache
def code_version() -> str:
    """``tacit VERSION HASH``; the hash is over all modules of ``client`` and ``shared``."""
    digest = hashlib.sha256()
    for package in (client, shared):
        root = Path(str(package.__file__)).parent
        for path in sorted(root.rglob("*.py")):
            content = path.read_bytes()
            name = path.relative_to(root.parent).as_posix().encode()
            digest.update(len(name).to_bytes(8, "big") + name)
            digest.update(len(content).to_bytes(8, "big") + content)
    return f"tacit {version('tacit')} {digest.hexdigest()[:16]}"
