"""What one organisation may send that is wrong: it is left out or named, and the others add up."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client import session
from server.aggregation import IterateAverage, ServerOptimizer, Signal
from server.strategy import FederationStrategy
from shared.config import parse_config
from shared.errors import FederationError, RefusedError
from shared.masks import new_secret
from shared.roster import Announcement
from tests.secure.conftest import MakeFederation
from tests.secure.house import flipped
from tests.secure.parts import Arrays, Federation

HOSTILE, VICTIM = 1, 3
OTHERS = [0, 2, 3, 4]
# Node numbers begin at 2.
NAME = "house 3"


@pytest.fixture
def federation(make: MakeFederation) -> Federation:
    """Five organisations, of which four must be in a sum and one may be hostile."""
    return make(5, 4)


def check_others(federation: Federation) -> None:
    """The sum is that of all but the hostile one."""
    total = federation.total()
    assert total.names == federation.names(OTHERS)
    assert total.values.tolist() == federation.sum_of(OTHERS).tolist()


def attempts(federation: Federation) -> int:
    return 1 + max(one.request.attempt for one in federation.seen)


def without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {n: value for n, value in arrays.items() if n != name}


def put(name: str, change: Callable[[Any], Any]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, name: change(arrays[name])}


WRONG: dict[str, tuple[str, Callable[[Arrays], Arrays], str]] = {
    "keys without a signature": (
        "keys",
        without("signature"),
        "secure sum: expected an array signature of uint8 [64]",
    ),
    "keys under a wrong signature": (
        "keys",
        put("signature", flipped),
        f"{NAME}: its keys do not carry its signature",
    ),
    "keys that nobody signed": (
        "keys",
        put("keys", flipped),
        f"{NAME}: its keys do not carry its signature",
    ),
    "two keys": (
        "keys",
        put("keys", lambda value: value[:2]),
        "secure sum: expected an array keys of uint8 [3, 32]",
    ),
    "its catalogue, which was not asked for": (
        "keys",
        lambda arrays: {**arrays, "items": np.zeros(3, dtype=np.uint64)},
        f"{NAME}: expected the keys of its catalogue with P alone",
    ),
    "shares for too few": (
        "shares",
        put("ciphertexts", lambda value: value[:4]),
        "secure sum: expected an array ciphertexts of uint8 [5, 92]",
    ),
    "shares that are no bytes": (
        "shares",
        put("ciphertexts", lambda value: value.astype(np.int64)),
        "secure sum: expected an array ciphertexts of uint8 [5, 92]",
    ),
    "short ciphertexts": (
        "shares",
        put("ciphertexts", lambda value: value[:, :-1]),
        "secure sum: expected an array ciphertexts of uint8 [5, 92]",
    ),
    "no digests": ("shares", without("digests"), f"{NAME}: expected ciphertexts and digests"),
    "short digests": (
        "shares",
        put("digests", lambda value: value[:, :, :31]),
        "secure sum: expected an array digests of uint8 [5, 2, 32]",
    ),
    "a short vector": (
        "masked",
        put("masked", lambda value: value[:-1]),
        "secure sum: expected an array masked of uint8 [6, 5]",
    ),
    "longer words": (
        "masked",
        put("masked", lambda value: np.hstack([value, value])),
        "secure sum: expected an array masked of uint8 [6, 5]",
    ),
    "a vector of floats": (
        "masked",
        put("masked", lambda value: value.astype(np.float32)),
        "secure sum: expected an array masked of uint8 [6, 5]",
    ),
    "no receipt": (
        "masked",
        without("receipt"),
        "secure sum: expected an array receipt of uint8 [64]",
    ),
    "a wrong receipt": (
        "masked",
        put("receipt", flipped),
        f"{NAME}: its masked vector comes without its own receipt",
    ),
    "something beside": (
        "masked",
        lambda arrays: {**arrays, "more": arrays["receipt"]},
        f"{NAME}: its masked vector comes without its own receipt",
    ),
}


@pytest.mark.parametrize(("phase", "change", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_left_out_and_the_others_add_up(
    federation: Federation, phase: str, change: Callable[[Arrays], Arrays], reason: str
) -> None:
    federation.changes = {(HOSTILE, phase): change}
    check_others(federation)
    assert federation.reasons == [reason]
    assert attempts(federation) == 1


def test_another_ones_receipt_is_not_its_own(federation: Federation) -> None:
    kept: list[Arrays] = []

    def keep(arrays: Arrays) -> Arrays:
        kept.append(arrays)
        return arrays

    federation.changes = {
        (0, "masked"): keep,
        (HOSTILE, "masked"): lambda arrays: {**arrays, "receipt": kept[0]["receipt"]},
    }
    check_others(federation)
    assert federation.reasons == [f"{NAME}: its masked vector comes without its own receipt"]


def test_who_announces_anothers_keys_is_named_and_asked_no_more(federation: Federation) -> None:
    kept: list[Arrays] = []

    def keep(arrays: Arrays) -> Arrays:
        kept.append(arrays)
        return arrays

    federation.changes = {(0, "keys"): keep, (HOSTILE, "keys"): lambda arrays: kept[0]}
    check_others(federation)
    assert federation.reasons == [
        f"{NAME}: its keys have the signer of another organisation's; it is asked no more"
    ]
    federation.seen.clear()
    federation.changes = {}
    federation.total(round_number=2)
    assert HOSTILE not in {one.number for one in federation.seen}


@pytest.mark.parametrize("field", ["cipher_key", "mask_key"])
def test_keys_with_which_anybody_gets_the_same_are_left_out(
    federation: Federation, field: str
) -> None:
    def low(arrays: Arrays) -> Arrays:
        key, line = federation.members[HOSTILE].key, Announcement.from_arrays(arrays)
        given = {"cipher_key": line.cipher_key, "mask_key": line.mask_key, field: bytes(32)}
        context = bytes.fromhex(federation.members[HOSTILE].state["context"])
        return dict(
            Announcement.signed(
                key, context, given["cipher_key"], given["mask_key"], line.commitment
            ).to_arrays()
        )

    federation.changes = {(HOSTILE, "keys"): low}
    check_others(federation)
    (reason,) = federation.reasons
    assert reason.startswith(f"{NAME}: a public key of a secure sum cannot be used")
    assert attempts(federation) == 1


def place_of(federation: Federation, number: int) -> int:
    return sorted(m.key.public for m in federation.members).index(
        federation.members[number].key.public
    )


def spoilt_for(federation: Federation, *numbers: int) -> Callable[[Arrays], Arrays]:
    """Shares that these members cannot open."""

    def change(arrays: Arrays) -> Arrays:
        rows = arrays["ciphertexts"].copy()
        for number in numbers:
            rows[place_of(federation, number)] ^= 1
        return {**arrays, "ciphertexts": rows}

    return change


def test_shares_that_one_cannot_open_leave_that_one_out(federation: Federation) -> None:
    """One alone may be lying: nobody is named."""
    federation.changes = {(HOSTILE, "shares"): spoilt_for(federation, VICTIM)}
    total = federation.total()
    assert total.names == federation.names([0, 1, 2, 4])
    assert total.values.tolist() == federation.sum_of([0, 1, 2, 4]).tolist()
    signer = federation.members[HOSTILE].key.public
    assert federation.reasons == [
        f"[secure.shares] the shares of {signer} cannot be opened under this roster"
    ]
    assert federation.sums.excluded == set()


@pytest.mark.parametrize("whom", [(0, 2), (0, 2, 3, 4)])
def test_shares_that_several_cannot_open_are_named_and_the_next_attempt_is_without_their_dealer(
    federation: Federation, whom: tuple[int, ...]
) -> None:
    federation.changes = {(HOSTILE, "shares"): spoilt_for(federation, *whom)}
    check_others(federation)
    assert federation.reasons[-1] == (
        f"{NAME}: dealt shares that {len(whom)} organisations cannot open; it is asked no more"
    )
    assert attempts(federation) == 2
    assert federation.sums.excluded == {HOSTILE + 2}


def test_a_false_complaint_names_nobody(federation: Federation) -> None:
    signer = federation.members[0].key.public

    def complain(arrays: Arrays) -> Arrays:
        raise RefusedError(
            f"[secure.shares] the shares of {signer} cannot be opened under this roster; the "
            f"shares of {signer} cannot be opened under this roster"
        )

    federation.changes = {(HOSTILE, "masked"): complain}
    check_others(federation)
    assert federation.sums.excluded == set()
    assert attempts(federation) == 1


def deals_nonsense(federation: Federation) -> None:
    """The hostile one deals shares that open and do not join to its secrets."""
    member = federation.members[HOSTILE]
    honest = member.act

    def act(phase: str, request: Any, mechanism: str = "step") -> Arrays:
        with pytest.MonkeyPatch.context() as patch:
            if phase == "shares":
                patch.setattr(
                    session,
                    "split_secret",
                    lambda secret, least, number: [new_secret() for _ in range(number)],
                )
            return honest(phase, request, mechanism)

    member.act = act  # type: ignore[method-assign]


@pytest.mark.parametrize("lost", [False, True], ids=["its self-mask", "its mask key"])
def test_who_deals_shares_that_do_not_join_is_named_and_the_next_attempt_is_without_it(
    federation: Federation, lost: bool
) -> None:
    deals_nonsense(federation)
    federation.lost = {HOSTILE: "masked"} if lost else {}
    check_others(federation)
    assert federation.reasons[-1] == (
        f"{NAME}: the shares that it dealt do not join; it is asked no more"
    )
    assert attempts(federation) == 2
    assert federation.sums.excluded == {HOSTILE + 2}


def test_a_share_that_was_not_dealt_is_left_out(federation: Federation) -> None:
    federation.changes = {(HOSTILE, "unmask"): put("shares", flipped)}
    total = federation.total()
    assert total.values.tolist() == federation.sum_of(range(5)).tolist()
    assert federation.reasons == [f"{NAME}: gave a share that was not dealt to it"]


def test_shares_of_another_form_are_left_out(federation: Federation) -> None:
    federation.changes = {(HOSTILE, "unmask"): put("shares", lambda value: value[:-1])}
    total = federation.total()
    assert total.values.tolist() == federation.sum_of(range(5)).tolist()
    assert federation.reasons == ["secure sum: expected an array shares of uint8 [5, 32]"]


def test_who_answers_a_phase_without_having_answered_the_one_before_does_not_count(
    federation: Federation,
) -> None:
    federation.changes = {(HOSTILE, "shares"): lambda arrays: {}}
    check_others(federation)
    assert HOSTILE not in {one.number for one in federation.seen if one.phase == "masked"}


def anything(arrays: Arrays) -> Arrays:
    """Words all over the ring."""
    random = np.random.default_rng(5).integers(0, 256, arrays["masked"].shape, dtype=np.uint8)
    return {**arrays, "masked": random}


OUT_OF_BOUNDS = "the sum has norm .*; at most 1.01e.03 is possible"


@pytest.mark.parametrize("change", [anything, put("masked", lambda value: value ^ 128)])
def test_a_vector_that_is_no_sum_of_users_is_noticed_in_the_sum(
    federation: Federation, change: Callable[[Arrays], Arrays]
) -> None:
    federation.changes = {(HOSTILE, "masked"): change}
    with pytest.raises(FederationError, match=OUT_OF_BOUNDS):
        federation.total(repeat=False)


def strategy_of(federation: Federation) -> FederationStrategy:
    config = parse_config({"server": {"optimizer": "average"}}, "test")
    found = FederationStrategy(
        config,
        federation.inquiry,
        federation.plan,
        ServerOptimizer(config.server),
        IterateAverage(0.0, 9),
        Signal(),
    )
    federation.sums = found.sums
    return found


ADAPTER = {
    "b": np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32),
    "c": np.array([5.0, 6.0], dtype=np.float32),
}


def flat(adapter: Arrays) -> list[float]:
    return np.concatenate([value.ravel() for value in adapter.values()]).tolist()


def test_a_round_with_such_a_vector_is_lost_and_the_run_goes_on(federation: Federation) -> None:
    strategy = strategy_of(federation)
    federation.changes = {(HOSTILE, "masked"): anything}
    adapter, count, norm = strategy.train_round(federation.grid, 1, ADAPTER)
    assert (flat(adapter), count, norm) == (flat(ADAPTER), 0, 0.0)
    assert strategy.optimizer.round == 0
    federation.changes = {}
    adapter, count, norm = strategy.train_round(federation.grid, 2, ADAPTER)
    # Steps of 1, all users in each; 100 declared by each of five.
    update = -federation.sum_of(range(5)) / 500.0
    assert flat(adapter) == pytest.approx((np.array(flat(ADAPTER)) + update).tolist(), abs=1e-6)
    assert count == 5
    assert norm == pytest.approx(np.linalg.norm(update), rel=1e-5)


def test_three_such_rounds_in_a_row_end_the_run(federation: Federation) -> None:
    strategy = strategy_of(federation)
    federation.changes = {(HOSTILE, "masked"): anything}
    for number in (1, 2):
        strategy.train_round(federation.grid, number, ADAPTER)
    with pytest.raises(FederationError, match=OUT_OF_BOUNDS):
        strategy.train_round(federation.grid, 3, ADAPTER)


def test_a_round_between_them_that_works_begins_the_count_anew(federation: Federation) -> None:
    strategy = strategy_of(federation)
    for number in range(1, 7):
        federation.changes = {} if number % 3 == 0 else {(HOSTILE, "masked"): anything}
        _, count, _ = strategy.train_round(federation.grid, number, ADAPTER)
        assert count == (5 if number % 3 == 0 else 0)


def test_a_lost_round_is_not_asked_for_again_once_vectors_have_left(federation: Federation) -> None:
    strategy = strategy_of(federation)
    federation.changes = {(HOSTILE, "masked"): anything}
    strategy.train_round(federation.grid, 1, ADAPTER)
    assert attempts(federation) == 1


def test_a_round_that_fails_before_that_is(federation: Federation) -> None:
    strategy = strategy_of(federation)
    federation.lost = {0: "keys", 2: "shares"}
    strategy.train_round(federation.grid, 1, ADAPTER)
    assert attempts(federation) == 3
    assert not any(member.answers for member in federation.members)
