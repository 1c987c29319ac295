"""Masks of a secure sum: key streams that cancel in the sum of all, and secrets held in shares.

Double masking (Bonawitz et al., CCS 2017): organisation u sends its words plus the stream of its
self-mask seed, plus the streams that it has in common with each v, added by one of the two and
subtracted by the other. Streams are AES-256 in counter mode under keys that are used once.

Secrets are shared by Shamir's scheme (1979) over the integers modulo a prime. (pycryptodome's, over
GF(2**128), takes 10 s a round at the server for 50 organisations; this takes milliseconds.)
"""

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import PrivacyError
from shared.fixed_point import BLOCK, Words

SECRET_BYTES = 32
# The largest prime below 2**256: a share has as many bytes as the secret.
PRIME = 2**256 - 189


def add_stream(words: Words, key: bytes, sign: int) -> None:
    """Add to ``words``, in place and modulo 2**64, the stream of ``key``, or subtract it.

    Args:
        words: ``[coordinates] uint64``.
        key: 32 bytes that are used for nothing else.
        sign: 1 or -1.
    """
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    nothing = bytes(8 * BLOCK)
    stream = np.empty(8 * BLOCK + 16, dtype=np.uint8)
    for start in range(0, len(words), BLOCK):
        part = words[start : start + BLOCK]
        encryptor.update_into(memoryview(nothing)[: part.nbytes], stream.data)
        drawn = stream[: part.nbytes].view("<u8").astype(np.uint64, copy=False)
        if sign > 0:
            part += drawn
        else:
            part -= drawn


def agreed_key(private: bytes, public: bytes, purpose: bytes) -> bytes:
    """The 32 bytes that two X25519 keys have in common, for one purpose.

    Raises:
        PrivacyError: if the public key is one with which anybody would get the same.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise PrivacyError(f"a public key of a secure sum cannot be used ({error})") from error
    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=purpose).derive(shared)


def new_secret() -> bytes:
    """32 bytes from the operating system, below ``PRIME`` as a number."""
    return secrets.randbelow(PRIME).to_bytes(SECRET_BYTES, "big")


def split_secret(secret: bytes, least: int, number: int) -> list[bytes]:
    """Shares of a secret, of which ``least`` bring it back and fewer tell nothing.

    Args:
        secret: of ``new_secret``.
        least: shares that are enough.
        number: of shares; the one at place i is the polynomial's value at i + 1.

    Raises:
        PrivacyError: if the secret does not fit.
    """
    constant = int.from_bytes(secret, "big")
    if len(secret) != SECRET_BYTES or constant >= PRIME or not 1 <= least <= number:
        raise PrivacyError("a secret that is not one of new_secret cannot be shared")
    coefficients = [secrets.randbelow(PRIME) for _ in range(least - 1)]
    shares = []
    for place in range(1, number + 1):
        value = 0
        for coefficient in reversed(coefficients):
            value = (value + coefficient) * place % PRIME
        shares.append(((value + constant) % PRIME).to_bytes(SECRET_BYTES, "big"))
    return shares


def joining_weights(places: Sequence[int]) -> dict[int, int]:
    """Lagrange's weights at 0 of shares at these places; the same for all secrets."""
    weights = {}
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above = above * (other + 1) % PRIME
                below = below * (other - place) % PRIME
        weights[place] = above * pow(below, -1, PRIME) % PRIME
    return weights


def joined_secret(shares: Mapping[int, bytes], weights: Mapping[int, int]) -> bytes:
    """The secret of which ``shares`` are the shares, by their place.

    Args:
        shares: of at least the places of ``weights``.
        weights: ``joining_weights`` of as many places as bring the secret back.
    """
    total = sum(weight * int.from_bytes(shares[place], "big") for place, weight in weights.items())
    return (total % PRIME).to_bytes(SECRET_BYTES, "big")


def rows_of_bytes(rows: list[bytes]) -> npt.NDArray[np.uint8]:
    """Byte strings of one length as ``[rows, length] uint8``."""
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1).copy()
