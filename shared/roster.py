"""Who takes part in a secure sum, by keys that nobody can put in another's place.

Each organisation signs the keys of one attempt at one sum with the key that signs its ledger. All
see the same roster: it is part of every key that two of them agree on, so that shares dealt under
one roster cannot be opened under another.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from shared.chain import canonical
from shared.errors import FederationError, PrivacyError
from shared.keys import SigningKey, verify_new
from shared.masks import SECRET_BYTES, agreed_key, rows_of_bytes
from shared.messages import Request
from shared.wire import AnyArrays

KEYS_DOMAIN = b"tacit secure sum: keys 1\n"
RECEIPT_DOMAIN = b"tacit secure sum: receipt 1\n"
ROSTER_DOMAIN = b"tacit secure sum: roster 1\n"
COMMITMENT_DOMAIN = b"tacit secure sum: self-mask 1\n"
SHARE_DOMAIN = b"tacit secure sum: share 1\n"
SIGNATURE_BYTES = 64
# Of two shares under AES-GCM: nonce, shares, tag.
NONCE_BYTES = 12
SEALED_BYTES = NONCE_BYTES + 2 * SECRET_BYTES + 16
MOST_PARTICIPANTS = 1000

# Which of an organisation's two secrets a share is of, and its row among the digests.
SELF_MASK, MASK_KEY = 0, 1

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def context_of(request: Request, mechanism: str) -> bytes:
    """32 bytes that name one attempt at one sum: of a run, a server, a plan, a model, settings."""
    return hashlib.sha256(
        canonical(
            {
                "run": request.run,
                "round": request.round,
                "attempt": request.attempt,
                "mechanism": mechanism,
                "federation": request.federation,
                "plan": "" if request.plan is None else request.plan.sha256,
                "model": request.model_sha256,
                "settings": request.settings,
            }
        ).encode()
    ).digest()


def commitment(context: bytes, seed: bytes) -> bytes:
    """What an organisation says of its self-mask seed before it deals shares of it."""
    return hashlib.sha256(COMMITMENT_DOMAIN + context + seed).digest()


@dataclass(frozen=True)
class Announcement:
    """The keys of one organisation for one attempt, under its signature.

    Attributes:
        signer: public key that signs its ledger, 64 hexadecimal digits; names it here.
        cipher_key: X25519, 32 bytes: shares for it are encrypted to this.
        mask_key: X25519, 32 bytes: for the masks that it has in common with others.
        commitment: to its self-mask seed, 32 bytes.
        signature: over the context and the three, 64 bytes.
    """

    signer: str
    cipher_key: bytes
    mask_key: bytes
    commitment: bytes
    signature: bytes

    @classmethod
    def signed(
        cls, key: SigningKey, context: bytes, cipher: bytes, mask: bytes, committed: bytes
    ) -> Self:
        """The three under an organisation's key."""
        made = key.sign(KEYS_DOMAIN + context + cipher + mask + committed)
        return cls(key.public, cipher, mask, committed, bytes.fromhex(made))

    def genuine(self, context: bytes) -> bool:
        """Whether its signer signed it, for this attempt."""
        message = KEYS_DOMAIN + context + self.cipher_key + self.mask_key + self.commitment
        return verify_new(self.signer, message, self.signature.hex())

    def check_points(self) -> None:
        """Refuse keys with which everybody would agree on the same secret.

        Raises:
            PrivacyError: says so.
        """
        own = os.urandom(SECRET_BYTES)
        for public in (self.cipher_key, self.mask_key):
            agreed_key(own, public, b"tacit secure sum: trial\n")

    def to_arrays(self) -> dict[str, Bytes]:
        """As a reply carries it."""
        return {
            "signer": np.frombuffer(bytes.fromhex(self.signer), dtype=np.uint8).copy(),
            "keys": rows_of_bytes([self.cipher_key, self.mask_key, self.commitment]),
            "signature": np.frombuffer(self.signature, dtype=np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: AnyArrays) -> Self:
        """Read a reply.

        Raises:
            FederationError: if it has another form.
        """
        signer = bytes_array(arrays, "signer", (SECRET_BYTES,))
        keys = bytes_array(arrays, "keys", (3, SECRET_BYTES))
        signature = bytes_array(arrays, "signature", (SIGNATURE_BYTES,))
        cipher, mask, committed = (row.tobytes() for row in keys)
        return cls(signer.tobytes().hex(), cipher, mask, committed, signature.tobytes())


@dataclass(frozen=True)
class Roster:
    """All organisations of one attempt, in the order of their signers.

    Attributes:
        context: of the attempt.
        members: at least one, no signer twice.
    """

    context: bytes
    members: tuple[Announcement, ...]

    @cached_property
    def signers(self) -> tuple[str, ...]:
        """Public keys of the members, in order."""
        return tuple(member.signer for member in self.members)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that stand for the whole roster."""
        found = hashlib.sha256(ROSTER_DOMAIN + self.context)
        for member in self.members:
            found.update(bytes.fromhex(member.signer) + member.cipher_key + member.mask_key)
            found.update(member.commitment + member.signature)
        return found.digest()

    def to_arrays(self) -> dict[str, Bytes]:
        """As a request carries it."""
        keys = [m.cipher_key + m.mask_key + m.commitment for m in self.members]
        return {
            "secure.signers": rows_of_bytes([bytes.fromhex(s) for s in self.signers]),
            "secure.keys": rows_of_bytes(keys).reshape(-1, 3, SECRET_BYTES),
            "secure.signatures": rows_of_bytes([m.signature for m in self.members]),
        }

    @classmethod
    def from_arrays(cls, context: bytes, arrays: AnyArrays) -> Self:
        """Read a request, whose every line must be genuine.

        Raises:
            FederationError: if it has another form, a line is not signed by its signer for this
                attempt, or the lines are not in order or not all different.
        """
        signers = arrays.get("secure.signers", np.zeros(0))
        number = len(signers) if signers.ndim == 2 else 0
        if not 0 < number <= MOST_PARTICIPANTS:
            raise FederationError(f"secure sum: a roster of {number} organisations")
        signers = bytes_array(arrays, "secure.signers", (number, SECRET_BYTES))
        keys = bytes_array(arrays, "secure.keys", (number, 3, SECRET_BYTES))
        signatures = bytes_array(arrays, "secure.signatures", (number, SIGNATURE_BYTES))
        members = tuple(
            Announcement(
                signer.tobytes().hex(), k[0].tobytes(), k[1].tobytes(), k[2].tobytes(), s.tobytes()
            )
            for signer, k, s in zip(signers, keys, signatures, strict=True)
        )
        found = cls(context, members)
        if list(found.signers) != sorted(set(found.signers)):
            raise FederationError("secure sum: the roster is not in order, or names one twice")
        for member in members:
            if not member.genuine(context):
                raise FederationError(
                    f"secure sum: the keys under the name of {member.signer[:12]} do not carry its "
                    "signature for this attempt"
                )
            try:
                member.check_points()
            except PrivacyError as error:
                raise FederationError(f"secure sum: {member.signer[:12]}: {error}") from error
        return found

    def share_key(self, private: bytes, own: int, sender: int, recipient: int) -> bytes:
        """Key that encrypts the sender's shares for the recipient, one of whom is ``own``."""
        other = self.members[recipient if own == sender else sender]
        purpose = b"tacit secure sum: shares\n" + self.digest + self._pair(sender, recipient)
        return agreed_key(private, other.cipher_key, purpose)

    def mask_key(self, private: bytes, own: int, other: int) -> bytes:
        """Key of the stream that ``own`` and ``other`` have in common; ``private`` is own's."""
        purpose = b"tacit secure sum: mask\n" + self.digest + self._pair(*sorted((own, other)))
        return agreed_key(private, self.members[other].mask_key, purpose)

    def share_digest(self, dealer: int, recipient: int, kind: int, share: bytes) -> bytes:
        """What a dealer says of each share to all, so that whoever gives another is named."""
        place = self._pair(dealer, recipient) + kind.to_bytes(1, "big")
        return hashlib.sha256(SHARE_DOMAIN + self.digest + place + share).digest()

    def receipt(self, senders: Sequence[int], asked: bytes) -> bytes:
        """What a member signs when its masked vector leaves.

        Args:
            senders: places of those with whom it is masked.
            asked: 32 bytes that stand for what was asked, such as the adapter: a server that hands
                out another one to everybody but one would find that one's part in the sum
                (Pasquini, Francati and Ateniese, CCS 2022).
        """
        return RECEIPT_DOMAIN + self.digest + asked + np.asarray(senders, dtype=">i8").tobytes()

    def _pair(self, first: int, second: int) -> bytes:
        return bytes.fromhex(self.signers[first]) + bytes.fromhex(self.signers[second])


def mask_sign(own: int, other: int) -> int:
    """Whether ``own`` adds or subtracts the stream in common; the other does the opposite."""
    return 1 if own < other else -1


def bytes_array(arrays: AnyArrays, name: str, shape: tuple[int, ...]) -> Bytes:
    """An array of bytes of a message.

    Raises:
        FederationError: if it is missing or has another form.
    """
    value = arrays.get(name)
    if value is None or value.dtype != np.uint8 or value.shape != shape:
        raise FederationError(f"secure sum: expected an array {name} of uint8 {list(shape)}")
    return value


def places_array(arrays: AnyArrays, name: str, members: int) -> list[int]:
    """Places in a roster of ``members``, ascending.

    Raises:
        FederationError: if they are none.
    """
    value = arrays.get(name)
    if value is None or value.dtype != np.int64 or value.ndim != 1:
        raise FederationError(f"secure sum: expected an array {name} of int64")
    found: list[int] = value.tolist()
    if found != sorted(set(found)) or not all(0 <= place < members for place in found):
        raise FederationError(f"secure sum: {name} are no places in the roster, in order")
    return found
