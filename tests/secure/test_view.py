"""Nothing beyond the sum: a server that keeps all it sees guesses no better than a coin.

Each game: two organisations add x and y, or y and x, by a coin; the sum is the same. A guess is
right in half of all games. By chance one run in a million is further from that than 66 to 134 of
200 games, or 26 to 74 of 100 (the likelihoods learn from the other 100). Each adversary has a test
that it wins against a protocol with a fault, so that "at chance" says something.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest

from client import session
from shared.fixed_point import Words
from shared.masks import add_stream
from tests.secure.adversary import View, by_combination, by_correlation, by_likelihood
from tests.secure.conftest import MakeFederation
from tests.secure.parts import Arrays, Federation

FALSE_ALARM = 1e-6
GAMES, RED_GAMES = 200, 60
SIZE, WORD_BYTES = 6, 5
# The two that the coin is about, a third, which may hold hands with the server, and one to lose.
A, B, THIRD, LAST = range(4)
X = np.array([3 * 2**23, -5, 2**22, 0, 2**24, -(2**23)])
Y = np.array([-(2**23), 77, 2**21, 2**23, -(2**24), 1])
ADVERSARIES = ("by_correlation", "by_combination", "by_likelihood")

States = dict[int, dict[str, Any]]
Leak = Callable[[View, States], None]


@dataclass
class Games:
    """What came of some games.

    Attributes:
        coins: whether A had x.
        scores: of each adversary, one a game; positive says that A had x.
        seen: bytes that A and B sent.
    """

    coins: list[bool] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    seen: list[bytes] = field(default_factory=list)

    def add(self, coin: bool, residues: Words, true: tuple[Words, Words], seen: bytes) -> None:
        """Let all adversaries look at one game."""
        self.coins.append(coin)
        for adversary in (by_correlation, by_combination):
            score = adversary(residues, true, WORD_BYTES)
            self.scores.setdefault(adversary.__name__, []).append(score)
        self.seen.append(seen)

    def right(self, name: str) -> tuple[int, int]:
        """How many of an adversary's guesses are right, and of how many."""
        coins = np.array(self.coins)
        scores = np.array(self.scores[name]) if name in self.scores else self._likelihoods(coins)
        # Who has no opinion guesses.
        guess = np.random.default_rng(1).random(len(scores)) < 0.5
        said = np.where(scores == 0.0, guess, scores > 0.0)
        return int((said == coins[-len(scores) :]).sum()), len(scores)

    def check_chance(self) -> None:
        """No adversary is further from half of all games than chance brings it."""
        for name in ADVERSARIES:
            right, games = self.right(name)
            assert binomtest(right, games).pvalue > FALSE_ALARM, f"{name}: {right} of {games}"

    def check_won(self, *names: str) -> None:
        """These adversaries are nearly always right."""
        for name in names:
            right, games = self.right(name)
            assert right >= 0.95 * games, f"{name}: {right} of {games}"

    def _likelihoods(self, coins: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        seen = np.array([np.frombuffer(one, dtype=np.uint8) for one in self.seen], dtype=float)
        return by_likelihood(seen, coins)


def words_of(*rows: npt.NDArray[np.int64]) -> Words:
    return np.stack(rows).view(np.uint64)


def play(federation: Federation, games: int, lost: bool = False, leak: Leak | None = None) -> Games:
    """Games of which the server sees all messages, and ``leak`` gives it more."""
    found, random = Games(), np.random.default_rng(2)
    numbers = [A, B, THIRD] if lost else [A, B, THIRD, LAST]
    federation.lost = {} if lost is False else {LAST: "masked"}
    third = federation.members[THIRD].steps
    for number in range(1, games + 1):
        coin = bool(random.integers(2))
        federation.members[A].steps, federation.members[B].steps = (X, Y) if coin else (Y, X)
        federation.seen.clear()
        states: States = {}

        def keep(arrays: Arrays, states: States = states) -> Arrays:
            states |= {n: federation.members[n].state for n in (A, B, THIRD)}
            return arrays

        # All the others have sent their vectors; when shares are given secrets are overwritten.
        federation.changes = {(numbers[-1], "masked"): keep}
        total = federation.total(round_number=number)
        assert total.values.tolist() == federation.sum_of(numbers).tolist()
        view = View.of(federation, federation.seen)
        if leak is not None:
            leak(view, states)
        residues = np.stack([view.residue(who) for who in (A, B, THIRD)])
        true = words_of(X, Y, third), words_of(Y, X, third)
        found.add(coin, residues, true, view.bytes_seen[A] + view.bytes_seen[B])
    return found


def collude(view: View, states: States) -> None:
    """The third tells all that it has."""
    view.add_held(THIRD, states[THIRD])
    view.add_secrets(THIRD, states[THIRD])


def give_both(view: View, states: States) -> None:
    """Besides, the two give shares of both secrets of each."""
    collude(view, states)
    view.add_held(A, states[A])
    view.add_held(B, states[B])


def take_out(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """Put a fault in: vectors have only masks in common, or (own) only the senders' own masks."""
    seeds = []

    def committed(context: bytes, seed: bytes) -> bytes:
        seeds.append(seed)
        return real(context, seed)

    def masked(words: Words, key: bytes, sign: int) -> None:
        if (key in seeds) == own:
            add_stream(words, key, sign)

    real = session.commitment
    monkeypatch.setattr(session, "commitment", committed)
    monkeypatch.setattr(session, "add_stream", masked)
    monkeypatch.setattr("server.secure.add_stream", masked)


def test_the_view_of_a_sum_of_all_tells_nothing_else(make: MakeFederation) -> None:
    play(make(4, 3, size=SIZE), GAMES).check_chance()


@pytest.mark.slow
def test_nor_does_it_where_one_is_lost_and_its_masks_are_known(make: MakeFederation) -> None:
    play(make(4, 3, size=SIZE), GAMES, lost=True).check_chance()


def test_nor_does_it_with_all_that_a_colluder_knows(make: MakeFederation) -> None:
    play(make(4, 3, size=SIZE), GAMES, lost=True, leak=collude).check_chance()


def test_with_shares_of_both_secrets_of_one_the_server_has_its_vector(make: MakeFederation) -> None:
    games = play(make(4, 3, size=SIZE), RED_GAMES, leak=give_both)
    games.check_won("by_correlation", "by_combination")


def test_without_masks_in_common_the_server_has_every_vector(
    make: MakeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_out(monkeypatch, own=True)
    games = play(make(4, 3, size=SIZE), RED_GAMES)
    games.check_won("by_correlation", "by_combination")


def test_with_one_stream_for_all_pairs_combinations_tell_who_sent_what(
    make: MakeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(*_: object) -> bytes:
        return bytes(32)

    monkeypatch.setattr("shared.roster.Roster.mask_key", same)
    play(make(4, 3, size=SIZE), RED_GAMES).check_won("by_combination")


def test_without_any_mask_the_bytes_alone_tell_who_sent_what(
    make: MakeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        return None

    monkeypatch.setattr(session, "add_stream", nothing)
    monkeypatch.setattr("server.secure.add_stream", nothing)
    play(make(4, 3, size=SIZE), RED_GAMES).check_won("by_likelihood")


def late_vectors(federation: Federation, games: int) -> Games:
    """One is called lost, its masks in common become known, and its vector comes after all."""
    found, random = Games(), np.random.default_rng(3)
    federation.lost, federation.deaf = {LAST: "masked"}, False
    for number in range(1, games + 1):
        coin = bool(random.integers(2))
        federation.members[LAST].steps = X if coin else Y
        federation.seen.clear()
        federation.total(round_number=number)
        view = View.of(federation, federation.seen)
        late = federation.members[LAST].answers[f"run/{number}/step"]
        view.add_vector(LAST, late)
        true = words_of(X), words_of(Y)
        found.add(coin, view.residue(LAST)[None], true, late["masked"].tobytes())
    return found


def test_a_vector_that_comes_after_its_sender_was_called_lost_tells_nothing(
    make: MakeFederation,
) -> None:
    late_vectors(make(4, 3, size=SIZE), GAMES).check_chance()


def test_it_would_tell_all_if_its_sender_had_no_mask_of_its_own(
    make: MakeFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_out(monkeypatch, own=False)
    games = late_vectors(make(4, 3, size=SIZE), RED_GAMES)
    games.check_won("by_correlation", "by_combination")
