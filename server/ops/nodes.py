"""Which SuperNodes may join: public keys, registered with the SuperLink and taken off it again."""

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from server.ops.flower import flwr, nodes
from server.ops.folder import CONNECTION, Folder
from shared.errors import ConfigError, FederationError

LONGEST_NAME = 64

_MAKE = 'ssh-keygen -t ecdsa -b 384 -N "" -f key'


def read_public_key(path: Path) -> tuple[bytes, str]:
    """The key of a file in OpenSSH form, as PEM, and the name that goes with it.

    The name is the comment in the file or, where there is none, that of the file.

    Raises:
        ConfigError: if it is no ECDSA public key on the curve P-384 in OpenSSH form.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if b"PRIVATE KEY" in text:
        raise ConfigError(
            f"{path}: is a private key, which no one but the organisation may hold; give the file "
            "beside it that ends in .pub. If it came from an organisation, it must make a new one"
        )
    try:
        key = load_ssh_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path}: is no public key in OpenSSH form ({error}); an organisation makes one by "
            f"tacit client init, or by: {_MAKE}"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        kind = key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else _kind(text)
        raise ConfigError(
            f"{path}: is a key of the kind {kind}; a SuperNode's is ECDSA on the curve P-384, made "
            f"by: {_MAKE}"
        )
    _, _, comment = text.decode(errors="replace").strip().partition(" ")[2].partition(" ")
    name = "".join(filter(str.isprintable, comment.strip() or path.stem))[:LONGEST_NAME]
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), name


def register(folder: Folder, path: Path, name: str | None, say: Callable[[str], None]) -> bool:
    """Let the SuperNode of a public key join.

    Args:
        folder: of the federation.
        path: of the public key.
        name: under which the node is listed; None takes the key's comment.
        say: takes lines for the operator.

    Returns:
        False if it was registered already.

    Raises:
        ConfigError: if the file is no such key, or another node has the name.
        FederationError: if the SuperLink does not answer, or the key was taken off before.
    """
    key, own_name = read_public_key(path)
    name = name or own_name
    for node in nodes(folder):
        if node.public_key == key and not node.registered:
            raise FederationError(
                f"{path}: this key was taken off before, as {node.label}, and Flower takes no key "
                f"a second time; the organisation must make a new one: {_MAKE}"
            )
        if node.public_key == key:
            say(f"{path}: registered already as {node.label}, {node.status}")
            return False
        if node.name == name and node.registered:
            raise ConfigError(
                f"{path}: another node is registered under the name {name!r}; choose one with "
                "--name, or take the other off with: tacit server unregister"
            )
    answer = flwr(folder, ["supernode", "register", str(path), CONNECTION, "--name", name], say)
    say(f"{path}: registered as {name}, node {answer['node-id']}")
    return True


def unregister(folder: Folder, path: Path, say: Callable[[str], None]) -> None:
    """Keep the SuperNode of a public key out for ever; Flower takes no key a second time.

    Raises:
        ConfigError: if the file is no such key.
        FederationError: if no such node is registered, or the SuperLink does not answer.
    """
    key, _ = read_public_key(path)
    for node in nodes(folder):
        if node.public_key == key and node.registered:
            flwr(folder, ["supernode", "unregister", str(node.number), CONNECTION], say)
            say(f"{path}: {node.label} is no longer registered")
            return
    raise FederationError(f"{path}: no node is registered under this key")


def _kind(text: bytes) -> str:
    return text.split(maxsplit=1)[0].decode(errors="replace")
