"""A server that keeps all it sees, and what it tries to tell from it beyond the sum."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.fixed_point import Words, unpacked
from shared.masks import add_stream, joined_secret, joining_weights
from shared.roster import MASK_KEY, SELF_MASK, Roster, context_of, mask_sign
from shared.wire import AnyArrays
from tests.secure.parts import MECHANISM, Federation, Seen


@dataclass
class View:
    """All messages of one attempt, and whatever can be brought back from them.

    Attributes:
        roster: of the attempt.
        places: in the roster, by a member's number.
        least: shares that bring a secret back.
        vectors: masked, by place.
        senders: places of those that masked a vector.
        shares: by kind, dealer and recipient.
        bytes_seen: all that members sent, in order of number, for what looks at nothing but bytes.
        told: secrets that colluders told, by kind and place.
    """

    roster: Roster
    places: dict[int, int]
    least: int
    vectors: dict[int, Words] = field(default_factory=dict)
    senders: list[int] = field(default_factory=list)
    shares: dict[tuple[int, int], dict[int, bytes]] = field(default_factory=dict)
    bytes_seen: dict[int, bytes] = field(default_factory=dict)
    told: dict[tuple[int, int], bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, federation: Federation, seen: Sequence[Seen]) -> "View":
        """What the server has at the end of one attempt."""
        dealt = next(one for one in seen if one.phase == "shares")
        roster = Roster.from_arrays(context_of(dealt.request, MECHANISM), dealt.request.arrays)
        places = {
            number: roster.signers.index(member.key.public)
            for number, member in enumerate(federation.members)
            if member.key.public in roster.signers
        }
        view = cls(roster, places, federation.plan.least_participants)
        for one in seen:
            for name in sorted(one.reply):
                before = view.bytes_seen.get(one.number, b"")
                view.bytes_seen[one.number] = before + one.reply[name].tobytes()
            if one.phase == "masked":
                view.senders = one.request.arrays["secure.senders"].tolist()
                if one.reply:
                    view.add_vector(one.number, one.reply)
            if one.phase == "unmask" and one.reply:
                included = one.request.arrays["secure.included"].tolist()
                for dealer, share in zip(view.senders, one.reply["shares"], strict=True):
                    kind = SELF_MASK if dealer in included else MASK_KEY
                    view.add_share(kind, dealer, places[one.number], share.tobytes())
        return view

    def add_vector(self, number: int, reply: AnyArrays) -> None:
        """Take a masked vector in."""
        self.vectors[self.places[number]] = unpacked(reply["masked"])

    def add_share(self, kind: int, dealer: int, recipient: int, share: bytes) -> None:
        """Take one share in."""
        self.shares.setdefault((kind, dealer), {})[recipient] = share

    def add_held(self, number: int, state: dict[str, Any]) -> None:
        """Take in all shares that a member holds, of both kinds."""
        for dealer, pair in state["held"].items():
            for kind in (SELF_MASK, MASK_KEY):
                share = bytes.fromhex(pair[kind])
                self.add_share(kind, int(dealer), self.places[number], share)

    def add_secrets(self, number: int, state: dict[str, Any]) -> None:
        """Take in a member's own secrets."""
        self.told[SELF_MASK, self.places[number]] = bytes.fromhex(state["seed"])
        self.told[MASK_KEY, self.places[number]] = bytes.fromhex(state["mask_private"])

    def secret(self, kind: int, place: int) -> bytes | None:
        """A secret of which enough shares came in, or that was told."""
        shares = self.shares.get((kind, place), {})
        if (kind, place) in self.told or len(shares) < self.least:
            return self.told.get((kind, place))
        return joined_secret(shares, joining_weights(sorted(shares)[: self.least]))

    def residue(self, number: int) -> Words:
        """A member's vector without every mask that can be taken off it."""
        own = self.places[number]
        words = self.vectors[own].copy()
        seed = self.secret(SELF_MASK, own)
        if seed is not None:
            add_stream(words, seed, -1)
        private = self.secret(MASK_KEY, own)
        for other in set(self.senders) - {own}:
            if private is not None:
                key = self.roster.mask_key(private, own, other)
            elif (theirs := self.secret(MASK_KEY, other)) is not None:
                key = self.roster.mask_key(theirs, other, own)
            else:
                continue
            add_stream(words, key, -mask_sign(own, other))
        return words


def signed(words: Words, size: int) -> npt.NDArray[np.float64]:
    """Words modulo ``2**(8 size)`` as numbers around 0."""
    unused = np.uint64(64 - 8 * size)
    return ((words << unused).view(np.int64) >> np.int64(unused)).astype(np.float64)


def by_correlation(residues: Words, true: tuple[Words, Words], size: int) -> float:
    """Positive where the residues look more like the first case than like the second.

    Args:
        residues: ``[vectors, coordinates]``, what is left of masked vectors.
        true: what they would be without masks in the first and in the second case.
        size: bytes of a word.
    """
    return float((signed(residues, size) * (signed(true[0], size) - signed(true[1], size))).sum())


def by_combination(residues: Words, true: tuple[Words, Words], size: int) -> float:
    """As above, by whole-number combinations, in some of which masks in common would cancel."""
    factors = np.array(list(itertools.product(range(-3, 4), repeat=len(residues)))).view(np.uint64)
    most = np.uint64(2 ** (8 * size) - 1)
    found, first, second = ((factors @ rows) & most for rows in (residues, *true))
    return float((found == first).sum() - (found == second).sum())


def by_likelihood(
    seen: npt.NDArray[np.float64], coins: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Scores of the second half of ``[games, bytes]``, by a model of each byte from the first.

    The log likelihood ratio of two Gaussians of one deviation a byte.
    """
    half = len(seen) // 2
    train, known = seen[:half], coins[:half]
    means = [train[known == side].mean(axis=0) for side in (True, False)]
    deviation = train.std(axis=0) + 1.0
    apart = (means[0] - means[1]) / deviation**2
    scores: npt.NDArray[np.float64] = (seen[half:] - (means[0] + means[1]) / 2) @ apart
    return scores
