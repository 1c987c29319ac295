"""An organisation's part in a secure sum: four phases, in order, each answered once.

Nothing here trusts the server's word on who is in. Keys count only under the signature of an
organisation that the policy names; shares open only for who saw the same roster; and shares are
given only for those whose signed receipts say that they are masked with the same participants.

The state is on disk before an answer leaves, so that a process that was killed goes on where it
was, answers a repeated message with the same bytes, and never answers a phase twice in two ways. It
is read anew for each phase: in a simulation by Ray another process may have answered the last one.
Secrets are overwritten once the shares that unmask the sum were given, or another attempt begins.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import FederationError, PrivacyError, RefusedError
from shared.files import atomic_path, sync_directory
from shared.fixed_point import Words, packed
from shared.keys import PRIVATE_MODE, SigningKey, verify_new
from shared.masks import SECRET_BYTES, add_stream, new_secret, rows_of_bytes, split_secret
from shared.messages import Request
from shared.plan import PrivacyPlan
from shared.policy import TrustRules
from shared.roster import (
    MASK_KEY,
    NONCE_BYTES,
    SEALED_BYTES,
    SELF_MASK,
    SIGNATURE_BYTES,
    Announcement,
    Bytes,
    Roster,
    bytes_array,
    commitment,
    context_of,
    mask_sign,
    places_array,
)
from shared.stages import stage
from shared.tolerance import untolerated
from shared.wire import AnyArrays

Refuse = Callable[[str, str], RefusedError]


@dataclass(frozen=True)
class _State:
    """Byte strings are hexadecimal. Empty is what has not happened yet, or was overwritten.

    Attributes:
        context: of the attempt.
        cipher_private, mask_private, seed: the secrets.
        announcement: signer, cipher key, mask key, commitment, signature.
        roster: announcements of all, as above.
        sealed, digests: the shares as they were dealt.
        own: shares of its own two secrets for itself.
        senders: places of those it is masked with.
        asked: hash of what the vector was asked with, such as the adapter.
        held: for each sender, its two shares.
        included: places of those that it gave shares of self-masks for.
        given: the shares that it gave.
    """

    context: str
    cipher_private: str
    mask_private: str
    seed: str
    announcement: tuple[str, ...]
    roster: tuple[tuple[str, ...], ...] = ()
    sealed: tuple[str, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()
    own: tuple[str, str] = ("", "")
    senders: tuple[int, ...] = ()
    asked: str = ""
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    included: tuple[int, ...] = ()
    given: tuple[str, ...] = ()


class Session:
    """The attempts of one organisation, one at a time.

    Args:
        path: file of the state; readable by its owner alone.
        key: signs the organisation's ledger.
    """

    def __init__(self, path: Path, key: SigningKey) -> None:
        self._path = path
        self._key = key

    def announce(
        self, request: Request, plan: PrivacyPlan, mechanism: str, trust: TrustRules, refuse: Refuse
    ) -> dict[str, Bytes]:
        """First phase: keys for this attempt, under the organisation's signature."""
        if plan.least_participants < trust.least_participants:
            raise refuse(
                "trust.least_participants",
                f"the plan is content with {plan.least_participants} organisations; at least "
                f"{trust.least_participants} are asked for",
            )
        context = context_of(request, mechanism)
        state = self._current(context)
        if state is None:
            cipher, seed, mask_secret = X25519PrivateKey.generate(), new_secret(), new_secret()
            mask = X25519PrivateKey.from_private_bytes(mask_secret)
            announcement = Announcement.signed(
                self._key,
                context,
                cipher.public_key().public_bytes_raw(),
                mask.public_key().public_bytes_raw(),
                commitment(context, seed),
            )
            state = _State(
                context.hex(),
                cipher.private_bytes_raw().hex(),
                mask_secret.hex(),
                seed.hex(),
                _line(announcement),
            )
            self._keep(state)
        return _announcement(state.announcement).to_arrays()

    def holds(self, request: Request, mechanism: str) -> bool:
        """Whether the keys of this attempt are the ones that are held."""
        return self._current(context_of(request, mechanism)) is not None

    def deal(
        self, request: Request, plan: PrivacyPlan, mechanism: str, trust: TrustRules, refuse: Refuse
    ) -> dict[str, Bytes]:
        """Second phase: shares of both secrets for every organisation of the roster.

        Returns:
            ``ciphertexts``, ``[members, SEALED_BYTES]`` and ``digests``, ``[members, 2, 32]``.
        """
        state = self._open(request, mechanism, refuse)
        roster = self._roster(request, mechanism, refuse)
        lines = tuple(_line(member) for member in roster.members)
        if state.roster:
            if state.roster != lines:
                raise refuse("secure.replay", "shares were dealt already, under another roster")
            return _dealt(state)
        self._check_roster(roster, state, plan, trust, refuse)
        own = roster.signers.index(self._key.public)
        least, number = plan.least_participants, len(roster.members)
        shares = list(
            zip(
                split_secret(bytes.fromhex(state.seed), least, number),
                split_secret(bytes.fromhex(state.mask_private), least, number),
                strict=True,
            )
        )
        digests = [
            tuple(roster.share_digest(own, to, kind, pair[kind]) for kind in (SELF_MASK, MASK_KEY))
            for to, pair in enumerate(shares)
        ]
        private = bytes.fromhex(state.cipher_private)
        sealed = []
        for to, pair in enumerate(shares):
            if to == own:
                sealed.append(bytes(SEALED_BYTES))
                continue
            nonce = os.urandom(NONCE_BYTES)
            key = roster.share_key(private, own, own, to)
            sealed.append(nonce + AESGCM(key).encrypt(nonce, b"".join(pair), None))
        state = replace(
            state,
            roster=lines,
            sealed=tuple(s.hex() for s in sealed),
            digests=tuple((b.hex(), s.hex()) for b, s in digests),
            own=(shares[own][SELF_MASK].hex(), shares[own][MASK_KEY].hex()),
        )
        self._keep(state)
        return _dealt(state)

    def admit(
        self, request: Request, plan: PrivacyPlan, mechanism: str, refuse: Refuse
    ) -> tuple[str, ...]:
        """Third phase, before anything is spent: with whom the vector will be masked.

        Returns:
            Public keys of the participants.
        """
        state = self._open(request, mechanism, refuse)
        if not state.roster:
            raise refuse("secure.order", "no shares were dealt in this attempt")
        roster = _roster_of(state)
        senders = places_array(request.arrays, "secure.senders", len(roster.members))
        asked = request.payload_sha256
        if state.senders and (tuple(senders), asked) != (state.senders, state.asked):
            raise refuse(
                "secure.replay",
                "a vector was masked already, with other participants or of another request",
            )
        if not state.senders:
            own = roster.signers.index(self._key.public)
            if own not in senders:
                raise refuse("secure.participants", "this organisation is not among those named")
            if len(senders) < plan.least_participants:
                raise refuse(
                    "secure.participants",
                    f"only {len(senders)} organisations dealt shares; at least "
                    f"{plan.least_participants} are needed",
                )
            state = replace(
                state,
                senders=tuple(senders),
                asked=asked,
                held=self._held(request.arrays, roster, own, senders, state, refuse),
            )
            self._keep(state)
        return tuple(roster.signers[place] for place in state.senders)

    def masked(self, words: Words, word_bytes: int) -> dict[str, Bytes]:
        """Third phase: the words under all masks, and the receipt.

        Args:
            words: ``[coordinates] uint64`` noised sum; changed in place.
            word_bytes: of each that leave.

        Returns:
            ``masked``, ``[coordinates, word_bytes]``, and ``receipt``, ``[64]``.
        """
        state = self._load()
        if state is None or not state.senders or not state.seed:
            raise FederationError("secure sum: there are no participants to mask a vector with")
        roster = _roster_of(state)
        own = roster.signers.index(self._key.public)
        private = bytes.fromhex(state.mask_private)
        with stage("masks"):
            add_stream(words, bytes.fromhex(state.seed), 1)
            for other in state.senders:
                if other != own:
                    key = roster.mask_key(private, own, other)
                    add_stream(words, key, mask_sign(own, other))
            vector = packed(words, word_bytes)
        receipt = bytes.fromhex(self._key.sign(_receipt(roster, state)))
        return {"masked": vector, "receipt": np.frombuffer(receipt, dtype=np.uint8).copy()}

    def unmask(
        self, request: Request, plan: PrivacyPlan, mechanism: str, sent: bool, refuse: Refuse
    ) -> dict[str, Bytes]:
        """Fourth phase: of each participant one share, and never another one.

        That of its self-mask where its vector is in the sum, that of its mask key where it is not.

        Args:
            request: names those that are in, with their receipts.
            plan, mechanism: of the sum.
            sent: whether the masked vector of this attempt has left.
            refuse: puts a refusal on record.

        Returns:
            ``shares``, ``[participants, 32]``.
        """
        state = self._open(request, mechanism, refuse)
        if not (state.senders and sent):
            raise refuse("secure.order", "no masked vector has left in this attempt")
        roster = _roster_of(state)
        included = places_array(request.arrays, "secure.included", len(roster.members))
        if state.given:
            if tuple(included) != state.included:
                raise refuse(
                    "secure.replay",
                    "shares were given already, for another sum; both shares of one organisation "
                    "would lay its vector bare",
                )
            return {"shares": rows_of_bytes([bytes.fromhex(share) for share in state.given])}
        own = roster.signers.index(self._key.public)
        if places_array(request.arrays, "secure.senders", len(roster.members)) != list(
            state.senders
        ):
            raise refuse("secure.participants", "the vector was masked with other participants")
        self._check_included(request.arrays, roster, own, included, state, plan, refuse)
        given = tuple(
            state.held[str(place)][SELF_MASK if place in included else MASK_KEY]
            for place in state.senders
        )
        self._keep(
            replace(
                state,
                cipher_private="",
                mask_private="",
                seed="",
                own=("", ""),
                held={},
                included=tuple(included),
                given=given,
            )
        )
        return {"shares": rows_of_bytes([bytes.fromhex(share) for share in given])}

    def _check_roster(
        self,
        roster: Roster,
        state: _State,
        plan: PrivacyPlan,
        trust: TrustRules,
        refuse: Refuse,
    ) -> None:
        mine = [member for member in roster.members if member.signer == self._key.public]
        if mine != [_announcement(state.announcement)]:
            raise refuse("secure.roster", "the keys under this organisation's name are not its own")
        strangers = sorted(set(roster.signers) - set(trust.members)) if trust.members else []
        if strangers:
            raise refuse(
                "trust.members",
                f"{', '.join(s[:12] for s in strangers)} in the roster, not among the members that "
                "the policy names",
            )
        problem = untolerated(len(roster.members), plan.least_participants, trust.colluders)
        if problem:
            raise refuse("trust.least_participants", problem)

    def _held(
        self,
        arrays: AnyArrays,
        roster: Roster,
        own: int,
        senders: list[int],
        state: _State,
        refuse: Refuse,
    ) -> dict[str, tuple[str, str]]:
        sealed = bytes_array(arrays, "secure.ciphertexts", (len(senders), SEALED_BYTES))
        digests = bytes_array(arrays, "secure.digests", (len(senders), 2, SECRET_BYTES))
        private = bytes.fromhex(state.cipher_private)
        held = {str(own): state.own}
        for place, row, said in zip(senders, sealed, digests, strict=True):
            if place == own:
                continue
            try:
                key = roster.share_key(private, own, place, own)
                nonce, body = row[:NONCE_BYTES].tobytes(), row[NONCE_BYTES:].tobytes()
                opened = AESGCM(key).decrypt(nonce, body, None)
                pair = opened[:SECRET_BYTES], opened[SECRET_BYTES:]
                if any(
                    roster.share_digest(place, own, kind, pair[kind]) != said[kind].tobytes()
                    for kind in (SELF_MASK, MASK_KEY)
                ):
                    raise PrivacyError("its digests are not theirs")
            except (InvalidTag, PrivacyError) as error:
                raise refuse(
                    "secure.shares",
                    f"the shares of {roster.signers[place]} cannot be opened under this roster",
                ) from error
            held[str(place)] = pair[0].hex(), pair[1].hex()
        return held

    def _check_included(
        self,
        arrays: AnyArrays,
        roster: Roster,
        own: int,
        included: list[int],
        state: _State,
        plan: PrivacyPlan,
        refuse: Refuse,
    ) -> None:
        if own not in included:
            raise refuse(
                "secure.participants",
                "this organisation is called lost, and its masked vector has left",
            )
        if not set(included) <= set(state.senders):
            raise refuse("secure.participants", "some are called in that took no part")
        if len(included) < plan.least_participants:
            raise refuse(
                "secure.participants",
                f"only {len(included)} vectors would be in the sum; at least "
                f"{plan.least_participants} are needed, and it is not unmasked",
            )
        receipts = bytes_array(arrays, "secure.receipts", (len(included), SIGNATURE_BYTES))
        message = _receipt(roster, state)
        for place, receipt in zip(included, receipts, strict=True):
            if not verify_new(roster.signers[place], message, receipt.tobytes().hex()):
                raise refuse(
                    "secure.receipts",
                    f"{roster.signers[place][:12]} has not signed that its vector is of the same "
                    "request, masked with the same participants",
                )

    def _roster(self, request: Request, mechanism: str, refuse: Refuse) -> Roster:
        try:
            return Roster.from_arrays(context_of(request, mechanism), request.arrays)
        except FederationError as error:
            raise refuse("secure.roster", str(error)) from error

    def _open(self, request: Request, mechanism: str, refuse: Refuse) -> _State:
        state = self._current(context_of(request, mechanism))
        if state is None:
            raise refuse("secure.order", "no keys were announced for this attempt, or others since")
        return state

    def _current(self, context: bytes) -> _State | None:
        """The state, if it is that of this attempt."""
        state = self._load()
        return state if state is not None and state.context == context.hex() else None

    def _load(self) -> _State | None:
        if not self._path.exists():
            return None
        try:
            values: dict[str, Any] = json.loads(self._path.read_text())
            return _State(**{k: _tuples(v) for k, v in values.items()})
        except (OSError, ValueError, TypeError) as error:
            raise PrivacyError(
                f"{self._path}: cannot be read ({error}); delete it, and this attempt at a secure "
                "sum goes on without this organisation"
            ) from error

    def _keep(self, state: _State) -> None:
        """On disk, synced, before the answer that it makes possible leaves."""
        # Of a process that was killed while it wrote: secrets, under a name that may come again.
        for left in self._path.parent.glob(f".{self._path.name}.*.part"):
            left.unlink(missing_ok=True)
        with stage("files"), atomic_path(self._path) as temporary:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
            with os.fdopen(descriptor, "w") as file:
                json.dump(asdict(state), file)
                file.flush()
                os.fsync(file.fileno())
        # Were the rename lost in a power cut, the same keys would deal under another roster.
        sync_directory(self._path.parent)


def _receipt(roster: Roster, state: _State) -> bytes:
    return roster.receipt(state.senders, bytes.fromhex(state.asked))


def _line(member: Announcement) -> tuple[str, ...]:
    rest = (member.cipher_key, member.mask_key, member.commitment, member.signature)
    return (member.signer, *(part.hex() for part in rest))


def _announcement(line: tuple[str, ...]) -> Announcement:
    return Announcement(line[0], *(bytes.fromhex(part) for part in line[1:]))


def _roster_of(state: _State) -> Roster:
    return Roster(bytes.fromhex(state.context), tuple(map(_announcement, state.roster)))


def _dealt(state: _State) -> dict[str, Bytes]:
    digests = [bytes.fromhex(a) + bytes.fromhex(b) for a, b in state.digests]
    return {
        "ciphertexts": rows_of_bytes([bytes.fromhex(s) for s in state.sealed]),
        "digests": rows_of_bytes(digests).reshape(-1, 2, SECRET_BYTES),
    }


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_tuples, value))
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value
