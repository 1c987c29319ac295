"""The key with which an organisation's SuperNode proves to the federation who it is."""

import re
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from shared.errors import RunError
from shared.keys import create_secret_file


def node_key_path(node: Path) -> Path:
    """Where a SuperNode's folder keeps its private key; the public one is ``key.pub``."""
    return node / "key"


def create_node_key(node: Path, name: str) -> None:
    """Make an ECDSA P-384 key in OpenSSH form, which is what Flower reads.

    Args:
        node: folder of the SuperNode; it must not have a key.
        name: of the organisation; stands as a comment in the public key.
    """
    private = generate_private_key(SECP384R1())
    create_secret_file(
        node_key_path(node),
        private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    )
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    comment = re.sub(r"[^\w.-]+", "-", name)
    (node / "key.pub").write_text(f"{line} {comment}\n")


def load_node_key(node: Path) -> EllipticCurvePrivateKey:
    """Read the private key of a SuperNode's folder.

    Raises:
        RunError: if it is missing, cannot be read, or is not an ECDSA P-384 key in OpenSSH form.
    """
    path = node_key_path(node)
    try:
        private = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); tacit client init makes it"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise RunError(
            f"{path}: is no private key in OpenSSH form ({error}); tacit client init makes one"
        ) from error
    if not isinstance(private, EllipticCurvePrivateKey) or private.curve.name != SECP384R1.name:
        raise RunError(
            f"{path}: is no ECDSA key on the curve P-384, which Flower asks for; tacit client init "
            "makes one"
        )
    return private
