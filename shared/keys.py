"""Ed25519 keys: an organisation signs its ledger with one, a server its countersignatures."""

import functools
import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shared.errors import PrivacyError
from shared.files import sync_directory

PRIVATE_MODE = 0o600

# Points of small order, in every encoding: under such a key one signature fits many messages.
_LOW = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
WEAK_KEYS = frozenset(_LOW) | {key[:62] + f"{int(key[62:], 16) | 0x80:02x}" for key in _LOW}


class SigningKey:
    """A private key and its public half as 64 hexadecimal digits."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw().hex()

    @classmethod
    def load_or_create(cls, path: Path) -> "SigningKey":
        """Read the PEM file, or make one that only its owner can read.

        Raises:
            PrivacyError: if the file is no unencrypted Ed25519 key.
        """
        if not path.exists():
            pem = Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            create_secret_file(path, pem)
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise PrivacyError(f"{path}: cannot be read as a signing key ({error})") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise PrivacyError(f"{path}: is not an Ed25519 key")
        return cls(private)

    def sign(self, message: bytes) -> str:
        """Signature as 128 hexadecimal digits."""
        return self._private.sign(message).hex()


def verify_new(public: str, message: bytes, signature: str) -> bool:
    """Whether a hexadecimal signature over ``message`` was made by the key ``public``."""
    try:
        raw, made = bytes.fromhex(public), bytes.fromhex(signature)
        # Another spelling of the same bytes would be a change that nobody sees.
        if (raw.hex(), made.hex()) != (public, signature) or public in WEAK_KEYS:
            return False
        Ed25519PublicKey.from_public_bytes(raw).verify(made, message)
    except (InvalidSignature, ValueError):
        return False
    return True


verify = functools.lru_cache(maxsize=1024)(verify_new)
"""``verify_new`` that remembers; for small messages that are read again and again."""


def load_or_create_secret(path: Path) -> bytes:
    """32 bytes from the operating system, made once and readable by their owner alone.

    Raises:
        PrivacyError: if the file holds something else.
    """
    if not path.exists():
        create_secret_file(path, os.urandom(32))
    secret = path.read_bytes()
    if len(secret) != 32:
        raise PrivacyError(f"{path}: holds {len(secret)} bytes; a secret has 32")
    return secret


def create_secret_file(path: Path, content: bytes) -> None:
    """Write a new file whole or not at all; another process that was first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        sync_directory(path.parent)
    finally:
        temporary.unlink()


def population_fingerprint(user_ids: Sequence[str], secret: bytes) -> str:
    """HMAC-SHA256 over the sorted users: equal populations show as equal, and nothing else shows.

    Without the secret nobody can test whether a person is among them.
    """
    mac = hmac.new(secret, b"tacit population 1\n", hashlib.sha256)
    for user in sorted(user_ids):
        encoded = user.encode()
        mac.update(len(encoded).to_bytes(8, "big") + encoded)
    return mac.hexdigest()
