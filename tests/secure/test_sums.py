"""The sum is exact for every loss that was planned for, and nothing is unmasked beyond that."""

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import FederationError, PrivacyError
from shared.masks import (
    PRIME,
    add_stream,
    joined_secret,
    joining_weights,
    new_secret,
    split_secret,
)
from tests.secure.conftest import MEMORY, MakeFederation
from tests.secure.parts import PHASES, Federation, make_federation

BEYOND = "nothing is unmasked below that"


def in_sum(federation: Federation) -> set[int]:
    """Whose vectors count: of all that were not lost before they had sent one."""
    gone = {n for n, phase in federation.lost.items() if phase != "unmask"}
    return set(range(len(federation.members))) - gone


def check(federation: Federation) -> None:
    total = federation.total()
    numbers = in_sum(federation)
    assert total.values.tolist() == federation.sum_of(numbers).tolist()
    assert total.names == federation.names(numbers)
    assert total.declared_users == 100 * len(numbers)
    assert federation.unmasked_for()
    assert min(federation.unmasked_for()) >= federation.plan.least_participants


@pytest.mark.parametrize("deaf", [True, False])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("who", range(5))
def test_any_one_of_five_may_be_lost_in_any_phase(
    make: MakeFederation, who: int, phase: str, deaf: bool
) -> None:
    federation = make(5, 4)
    federation.lost, federation.deaf = {who: phase}, deaf
    check(federation)


def test_five_that_are_all_there_add_up_exactly(make: MakeFederation) -> None:
    federation = make(5, 4)
    check(federation)
    assert in_sum(federation) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("who", range(5))
@pytest.mark.parametrize("phase", PHASES)
def test_where_no_loss_is_planned_for_one_lost_ends_it_and_nothing_is_unmasked(
    make: MakeFederation, who: int, phase: str
) -> None:
    federation = make(5, 5)
    federation.lost = {who: phase}
    with pytest.raises(FederationError, match=BEYOND):
        federation.total()
    assert set(federation.unmasked_for()) <= {5}
    # Shares of four, each of which tells nothing without the fifth.
    assert phase == "unmask" or not federation.unmasked_for()


@pytest.mark.parametrize("pair", list(itertools.combinations(range(5), 2)), ids=str)
def test_two_of_five_lost_in_any_phases_are_too_many(
    make: MakeFederation, pair: tuple[int, int]
) -> None:
    federation = make(5, 4)
    # Each loss is of another round, so that one federation does for all of them.
    for number, phases in enumerate(itertools.product(PHASES, repeat=2), start=1):
        federation.lost = dict(zip(pair, phases, strict=True))
        federation.seen.clear()
        with pytest.raises(FederationError, match=BEYOND):
            federation.total(round_number=number)
        assert min(federation.unmasked_for(), default=4) >= 4
        if "unmask" not in phases:
            assert federation.unmasked_for() == []


@pytest.mark.parametrize("seed", range(6))
def test_three_of_twenty_may_be_lost_in_any_phases(make: MakeFederation, seed: int) -> None:
    federation = make(20, 17, seed=seed)
    random = np.random.default_rng(seed)
    who = random.choice(20, 3, replace=False).tolist()
    federation.lost = {number: str(random.choice(PHASES)) for number in who}
    federation.deaf = bool(seed % 2)
    check(federation)


def test_four_of_twenty_are_too_many(make: MakeFederation) -> None:
    federation = make(20, 17)
    federation.lost = {2: "keys", 3: "shares", 11: "masked", 19: "masked"}
    with pytest.raises(FederationError, match="16 organisations sent a masked vector"):
        federation.total(repeat=False)
    assert federation.unmasked_for() == []


def test_who_comes_back_is_in_the_next_attempt(make: MakeFederation) -> None:
    federation = make(5, 5)

    def once(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del federation.changes[2, "shares"]
        return {"nothing": arrays["digests"]}

    federation.changes = {(2, "shares"): once}
    total = federation.total()
    assert total.values.tolist() == federation.sum_of(range(5)).tolist()
    assert {one.request.attempt for one in federation.seen} == {0, 1}


def test_more_than_were_planned_add_up_only_as_many_as_can_be_told_one_tale(
    make: MakeFederation,
) -> None:
    # Of six, two could be lost: 2**2 is not below 4 - 1.
    federation = make(6, 4)
    total = federation.total()
    assert len(total.names) == 5
    numbers = {int(name.removeprefix("house ")) - 2 for name in total.names}
    assert total.values.tolist() == federation.sum_of(numbers).tolist()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(4, 7),
    st.integers(0, 2**32 - 1),
    st.data(),
)
def test_sums_are_exact_for_any_vectors_within_the_bound(
    number: int, seed: int, data: st.DataObject
) -> None:
    lost = data.draw(st.dictionaries(st.integers(0, number - 1), st.sampled_from(PHASES)))
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        federation = make_federation(
            Path(folder), number, number - 1, size=data.draw(st.integers(1, 40)), seed=seed
        )
        federation.lost = lost
        if len(lost) <= 1:
            check(federation)
        else:
            with pytest.raises(FederationError, match=BEYOND):
                federation.total()


@pytest.mark.parametrize("size", [0, 1, 4, 2**15 - 1, 2**15, 2**15 + 1, 3 * 2**15 + 7])
def test_a_stream_is_aes_in_counter_mode_and_comes_off_again(size: int) -> None:
    from Crypto.Cipher import AES

    key = bytes(range(32))
    words = np.arange(size, dtype=np.uint64) * np.uint64(2**60 + 1)
    before = words.copy()
    add_stream(words, key, 1)
    stream = AES.new(key, AES.MODE_CTR, nonce=b"", initial_value=bytes(16)).encrypt(bytes(8 * size))
    assert (words - before).tobytes() == stream
    add_stream(words, key, -1)
    assert (words == before).all()


@given(st.integers(0, PRIME - 1), st.integers(1, 6), st.integers(0, 3), st.data())
def test_as_many_shares_as_it_takes_bring_a_secret_back(
    number: int, least: int, more: int, data: st.DataObject
) -> None:
    secret = number.to_bytes(32, "big")
    shares = split_secret(secret, least, least + more)
    chosen = data.draw(st.permutations(range(least + more)))[:least]
    assert joined_secret(dict(enumerate(shares)), joining_weights(chosen)) == secret


def test_fewer_shares_fit_any_secret() -> None:
    """One more share, made for a secret at will, joins with those that were dealt to that one."""
    shares = dict(enumerate(split_secret(new_secret(), 4, 5)))
    for wanted in (0, 1, PRIME - 1):
        places = (0, 2, 3, 4)
        weights = joining_weights(places)
        rest = sum(weights[n] * int.from_bytes(shares[n], "big") for n in (0, 2, 3))
        last = (wanted - rest) * pow(weights[4], -1, PRIME) % PRIME
        forged = shares | {4: last.to_bytes(32, "big")}
        assert joined_secret(forged, weights) == wanted.to_bytes(32, "big")


def test_shares_are_made_anew_each_time() -> None:
    secret = new_secret()
    assert set(split_secret(secret, 2, 4)).isdisjoint(split_secret(secret, 2, 4))
    assert secret not in split_secret(secret, 2, 4)


@pytest.mark.parametrize("secret", [PRIME.to_bytes(32, "big"), b"\xff" * 32, bytes(31), bytes(33)])
def test_what_is_no_number_below_the_prime_is_not_shared(secret: bytes) -> None:
    with pytest.raises(PrivacyError, match="cannot be shared"):
        split_secret(secret, 2, 3)
