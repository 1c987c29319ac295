"""Secure sums: the server's part, which ends with the sum of all organisations and nothing else.

Keys, shares, masked vectors, unmasking: four requests to those that answered the one before. Who is
lost on the way, or sends what does not fit, is left out as long as enough are left; whoever gives a
share that its dealer did not deal, or deals shares that do not join, is named.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from flwr.serverapp import Grid
from safetensors import safe_open
from safetensors.numpy import save_file

from server.inquiry import Inquiry
from shared.errors import FederationError, PrivacyError
from shared.files import atomic_path
from shared.fixed_point import Words, add_packed, from_words
from shared.keys import verify_new
from shared.masks import SECRET_BYTES, add_stream, joined_secret, joining_weights
from shared.messages import Reply, Request
from shared.plan import Mechanism, PrivacyPlan
from shared.roster import (
    MASK_KEY,
    SEALED_BYTES,
    SELF_MASK,
    SIGNATURE_BYTES,
    Announcement,
    Roster,
    bytes_array,
    commitment,
    context_of,
    mask_sign,
)
from shared.stages import stage
from shared.tolerance import untolerated
from shared.wire import KEYS, SHARES, SUMMED, UNMASK, AnyArrays, arrays_sha256, phase_kind

LOGGER = logging.getLogger(__name__)

# Of one sum, and of those in which masked vectors left, which count in the ledgers.
MOST_ATTEMPTS, MOST_COSTLY = 3, 2


@dataclass(frozen=True)
class SecureSum:
    """The sum of the organisations that are in it, with their noise.

    Attributes:
        values: ``[coordinates] float64``.
        names: of the organisations.
        declared_users: of all of them.
        deviation: of the noise in each coordinate.
        keys: ``[items] uint64`` of the union of catalogues, for popularity; else empty.
    """

    values: npt.NDArray[np.float64]
    names: tuple[str, ...]
    declared_users: int
    deviation: float
    keys: npt.NDArray[np.uint64]


@dataclass
class SecureSums:
    """All secure sums of one run.

    Attributes:
        inquiry: sends requests and checks who answers.
        plan: of the run.
        folder: keeps sums that a resumed run must not ask for again; None keeps none.
        excluded: nodes that were named for what cannot be a mistake on the way; asked no more.
    """

    inquiry: Inquiry
    plan: PrivacyPlan
    folder: Path | None = None
    excluded: set[int] = field(default_factory=set)

    def total(
        self,
        grid: Grid,
        name: str,
        arrays: AnyArrays,
        round_number: int,
        size: int = 0,
        repeat: bool = True,
    ) -> SecureSum:
        """Ask for one sum, in up to ``MOST_ATTEMPTS`` attempts.

        Args:
            grid: reaches the nodes.
            name: of the mechanism.
            arrays: that its request carries; popularity gets ``keys`` of its own.
            round_number: of the request.
            size: coordinates; 0 for popularity, which asks for the catalogues first.
            repeat: whether it is asked for once in a run: tried again after masked vectors have
                left, which costs again, and kept for a resumed run.

        Raises:
            FederationError: if none of the attempts came to a sum.
        """
        kept = None if self.folder is None else self.folder / f"{name}.safetensors"
        if repeat and kept is not None and kept.exists():
            return _read_sum(kept)
        reasons, costly = [], 0
        for number in range(MOST_ATTEMPTS):
            attempt = _Attempt(self, grid, name, dict(arrays), round_number, size, number)
            try:
                found = attempt.run()
                if repeat and kept is not None:
                    _keep_sum(kept, found)
                return found
            except FederationError as error:
                reasons.append(f"attempt {number + 1}: {error}")
                LOGGER.warning("secure sum of %s, round %d: %s", name, round_number, error)
                costly += attempt.left
                if costly >= (MOST_COSTLY if repeat else 1):
                    break
        raise FederationError(f"secure sum of {name}: {'; '.join(reasons)}")


@dataclass
class _Attempt:
    sums: SecureSums
    grid: Grid
    name: str
    arrays: dict[str, npt.NDArray[np.generic]]
    round: int
    size: int
    number: int
    left: bool = False

    def run(self) -> SecureSum:
        announced = self._announced()
        shared = self._shared(announced)
        masked = self._masked(shared)
        words = self._unmasked(shared, masked)
        return self._decoded(words, masked)

    @property
    def mechanism(self) -> Mechanism:
        return self.sums.plan.mechanism(self.name)

    @property
    def least(self) -> int:
        return self.sums.plan.least_participants

    def _announced(self) -> "_Announced":
        replies = self._ask(phase_kind(KEYS, self.name), {}, None, self._check_keys)
        context = self._context()
        chosen: list[tuple[Reply, Announcement]] = []
        for reply in replies:
            line = Announcement.from_arrays(reply.arrays)
            if any(line.signer == other.signer for _, other in chosen):
                self._name(reply, "its keys have the signer of another organisation's")
                continue
            chosen.append((reply, line))
        # Where more have joined than can be told one tale, others stay out in each attempt.
        chosen.sort(key=lambda one: sha256(context + one[1].signer.encode()).digest())
        colluders = self.sums.plan.colluders
        while len(chosen) > self.least and untolerated(len(chosen), self.least, colluders):
            chosen.pop()
        chosen.sort(key=lambda one: one[1].signer)
        self._enough(len(chosen), "announced keys")
        if self.name == "popularity":
            keys = np.unique(np.concatenate([reply.arrays["items"] for reply, _ in chosen]))
            self.arrays["keys"], self.size = keys, len(keys)
        roster = Roster(context, tuple(line for _, line in chosen))
        return _Announced(roster, {reply.node: n for n, (reply, _) in enumerate(chosen)})

    def _shared(self, announced: "_Announced") -> "_Shared":
        number = len(announced.roster.members)

        def check(reply: Reply) -> None:
            if set(reply.arrays) != {"ciphertexts", "digests"}:
                raise FederationError(f"{reply.name}: expected ciphertexts and digests")
            bytes_array(reply.arrays, "digests", (number, 2, SECRET_BYTES))
            bytes_array(reply.arrays, "ciphertexts", (number, SEALED_BYTES))

        replies = self._ask(
            phase_kind(SHARES, self.name), announced.roster.to_arrays(), announced.place, check
        )
        self._enough(len(replies), "dealt shares")
        dealt = {announced.place[reply.node]: reply for reply in replies}
        return _Shared(announced, dict(sorted(dealt.items())))

    def _masked(self, shared: "_Shared") -> dict[int, Reply]:
        roster, places = shared.announced.roster, list(shared.dealt)
        plan = self.sums.plan
        receipt = roster.receipt(places, bytes.fromhex(arrays_sha256(self.arrays)))
        nodes = {reply.node: place for place, reply in shared.dealt.items()}

        def check(reply: Reply) -> None:
            signature = bytes_array(reply.arrays, "receipt", (SIGNATURE_BYTES,))
            bytes_array(reply.arrays, "masked", (self.size, plan.word_bytes))
            signer = roster.signers[nodes[reply.node]]
            if len(reply.arrays) != 2 or not verify_new(signer, receipt, signature.tobytes().hex()):
                raise FederationError(
                    f"{reply.name}: its masked vector comes without its own receipt"
                )

        own = {
            node: {
                "secure.senders": np.array(places, dtype=np.int64),
                "secure.ciphertexts": np.stack(
                    [r.arrays["ciphertexts"][place] for r in shared.dealt.values()]
                ),
                "secure.digests": np.stack(
                    [r.arrays["digests"][place] for r in shared.dealt.values()]
                ),
            }
            for node, place in nodes.items()
        }
        self.left = True
        before = len(self.sums.inquiry.refusals)
        replies = self._ask(SUMMED[self.name], self.arrays, nodes, check, own)
        self._name_dealers(shared, before)
        self._enough(len(replies), "sent a masked vector")
        return {nodes[reply.node]: reply for reply in replies}

    def _unmasked(self, shared: "_Shared", masked: Mapping[int, Reply]) -> Words:
        roster, places = shared.announced.roster, list(shared.dealt)
        nodes = {reply.node: place for place, reply in masked.items()}
        included = sorted(masked)

        def check(reply: Reply) -> None:
            given = bytes_array(reply.arrays, "shares", (len(places), SECRET_BYTES))
            recipient = nodes[reply.node]
            for dealer, share in zip(places, given, strict=True):
                kind = SELF_MASK if dealer in masked else MASK_KEY
                said = shared.dealt[dealer].arrays["digests"][recipient][kind].tobytes()
                if roster.share_digest(dealer, recipient, kind, share.tobytes()) != said:
                    raise FederationError(f"{reply.name}: gave a share that was not dealt to it")

        asked: dict[str, npt.NDArray[np.generic]] = {
            "secure.senders": np.array(places, dtype=np.int64),
            "secure.included": np.array(included, dtype=np.int64),
            "secure.receipts": np.stack([masked[p].arrays["receipt"] for p in included]),
        }
        replies = self._ask(phase_kind(UNMASK, self.name), asked, nodes, check)
        self._enough(len(replies), "gave shares")
        with stage("masks"):
            words = np.zeros(self.size, dtype=np.uint64)
            for reply in masked.values():
                add_packed(words, reply.arrays["masked"])
            weights = joining_weights([nodes[r.node] for r in replies][: self.least])
            for column, dealer in enumerate(places):
                shares = {nodes[r.node]: r.arrays["shares"][column].tobytes() for r in replies}
                secret = joined_secret(shares, weights)
                self._take_off(words, roster, dealer, secret, shared, included)
        return words

    def _take_off(
        self,
        words: Words,
        roster: Roster,
        dealer: int,
        secret: bytes,
        shared: "_Shared",
        included: Sequence[int],
    ) -> None:
        member = roster.members[dealer]
        if dealer in included:
            if commitment(roster.context, secret) != member.commitment:
                self._name(shared.dealt[dealer], "the shares that it dealt do not join")
                raise FederationError("the self-mask of one organisation cannot be taken off")
            add_stream(words, secret, -1)
            return
        public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        if public != member.mask_key:
            self._name(shared.dealt[dealer], "the shares that it dealt do not join")
            raise FederationError("the masks of an organisation that is lost cannot be taken off")
        for other in included:
            # What the other has added or subtracted for the lost one.
            stream = roster.mask_key(secret, dealer, other)
            add_stream(words, stream, -mask_sign(other, dealer))

    def _decoded(self, words: Words, masked: Mapping[int, Reply]) -> SecureSum:
        mechanism = self.mechanism
        values = from_words(
            words, self.sums.plan.word_bytes, mechanism.sensitivity, mechanism.grid_bits
        )
        declared = sum(reply.declared_users for reply in masked.values())
        deviation = mechanism.deviation * len(masked) ** 0.5
        # A user's row has at most the sensitivity's norm; twice that and the noise is ample.
        bound = 2.0 * (declared * mechanism.sensitivity + deviation * max(1, self.size) ** 0.5)
        norm = float(np.linalg.norm(values))
        if norm > bound:
            raise FederationError(
                f"the sum has norm {norm:.3g}; at most {bound:.3g} is possible. One of "
                f"{', '.join(sorted(r.name for r in masked.values()))} sent what is no sum of its "
                "users; which one, nobody can tell"
            )
        keys = self.arrays["keys"] if self.name == "popularity" else np.zeros(0)
        return SecureSum(
            values,
            tuple(sorted(reply.name for reply in masked.values())),
            declared,
            deviation,
            keys.astype(np.uint64),
        )

    def _ask(
        self,
        kind: str,
        arrays: AnyArrays,
        nodes: Mapping[int, int] | None,
        check: Callable[[Reply], None],
        own: Mapping[int, AnyArrays] | None = None,
    ) -> list[Reply]:
        inquiry, grid = self.sums.inquiry, self.grid
        asked = set(grid.get_node_ids() if nodes is None else nodes) - self.sums.excluded
        outgoing = inquiry.messages(grid, kind, self.round, arrays, asked, self.number, own)
        return inquiry.whole(self.round, inquiry.exchange(grid, outgoing), check)

    def _check_keys(self, reply: Reply) -> None:
        if reply.node not in self.sums.inquiry.members:
            raise FederationError(f"{reply.name}: has not joined")
        line = Announcement.from_arrays(reply.arrays)
        if not line.genuine(self._context()):
            raise FederationError(f"{reply.name}: its keys do not carry its signature")
        try:
            line.check_points()
        except PrivacyError as error:
            raise FederationError(f"{reply.name}: {error}") from error
        if reply.head is not None and reply.head.key != line.signer:
            raise FederationError(f"{reply.name}: its keys and its ledger have other signers")
        items = reply.arrays.get("items")
        if (self.name == "popularity") != (items is not None) or (
            items is not None and (items.dtype != np.uint64 or items.ndim != 1)
        ):
            raise FederationError(f"{reply.name}: expected the keys of its catalogue with P alone")

    def _context(self) -> bytes:
        inquiry = self.sums.inquiry
        request = Request(
            inquiry.run,
            self.round,
            inquiry.plan,
            inquiry.model_sha256,
            {},
            federation=inquiry.book.key.public,
            settings=inquiry.settings,
            attempt=self.number,
        )
        return context_of(request, self.name)

    def _enough(self, number: int, did: str) -> None:
        if number < self.least:
            raise FederationError(
                f"{number} organisations {did}; the plan needs {self.least}, and nothing is "
                "unmasked below that"
            )

    def _name(self, reply: Reply, did: str) -> None:
        """Put on record who did what no loss on the way explains, and ask it no more."""
        sentence = f"{reply.name}: {did}; it is asked no more"
        self.sums.inquiry.refuse(self.round, reply.node, sentence)
        self.sums.excluded.add(reply.node)

    def _name_dealers(self, shared: "_Shared", before: int) -> None:
        """Dealers whose shares more organisations could not open than may be lying."""
        signers = shared.announced.roster.signers
        complaints = self.sums.inquiry.refusals[before:]
        for place, reply in shared.dealt.items():
            against = sum(f"the shares of {signers[place]} " in c.reason for c in complaints)
            if against > self.sums.plan.colluders:
                self._name(reply, f"dealt shares that {against} organisations cannot open")


def _keep_sum(path: Path, found: SecureSum) -> None:
    texts = {
        "names": json.dumps(found.names),
        "declared_users": str(found.declared_users),
        "deviation": repr(found.deviation),
    }
    with atomic_path(path) as temporary:
        save_file({"values": found.values, "keys": found.keys}, temporary, metadata=texts)


def _read_sum(path: Path) -> SecureSum:
    with safe_open(path, framework="numpy") as file:
        texts = file.metadata()
        return SecureSum(
            file.get_tensor("values"),
            tuple(json.loads(texts["names"])),
            int(texts["declared_users"]),
            float(texts["deviation"]),
            file.get_tensor("keys"),
        )


@dataclass(frozen=True)
class _Announced:
    """Attributes:
    roster: of the attempt.
    place: in the roster, by node.
    """

    roster: Roster
    place: Mapping[int, int]


@dataclass(frozen=True)
class _Shared:
    """Attributes:
    announced: before.
    dealt: replies by place, ascending.
    """

    announced: _Announced
    dealt: Mapping[int, Reply]
