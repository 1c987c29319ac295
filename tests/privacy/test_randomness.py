"""Noise of the planned size from streams that nobody shares, and users drawn one by one.

Statistical tests say how often they fail by chance: once in a million runs each.
"""

import multiprocessing
import secrets
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from shared.errors import PrivacyError
from shared.plan import Mechanism
from shared.randomness import PrivateRandom, from_operating_system, from_seed

DeviationIs = Callable[[npt.NDArray[Any], float], bool]

FALSE_ALARM = 1e-6
RATE = 0.3


def words(random: PrivateRandom, count: int = 200) -> set[int]:
    """The next 64-bit words of a stream; two that are equal by chance: once in 1e10 runs here."""
    drawn = random.generator.integers(0, 2**64, size=count, dtype=np.uint64)
    return {int(word) for word in drawn}


def _send_words(connection: Connection) -> None:
    connection.send(words(from_operating_system()))


def _send_refusal(connection: Connection, random: PrivateRandom) -> None:
    try:
        connection.send(str(words(random)))
    except PrivacyError as refusal:
        connection.send(str(refusal))


def _in_another_process(method: str, work: Callable[..., None], *arguments: Any) -> Any:
    """What ``work`` sends from a process of its own."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs, *arguments))
    child.start()
    # So that a child that ends without an answer is an error here, not a wait without end.
    theirs.close()
    answer = ours.recv()
    child.join()
    return answer


def inclusions(draws: int, users: int) -> npt.NDArray[np.bool_]:
    """Which user entered which draw, ``[draws, users]``."""
    mechanism, random = Mechanism("step", RATE, 1.0, 1.0), from_operating_system()
    entered = np.zeros((draws, users), dtype=bool)
    for draw in range(draws):
        entered[draw, mechanism.sample(users, random)] = True
    return entered


def independent(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> bool:
    """Chi-square with three degrees of freedom on both, one, the other and neither entering."""
    observed = np.bincount(2 * first.ravel() + second.ravel(), minlength=4)
    chances = np.array([(1 - RATE) ** 2, (1 - RATE) * RATE, RATE * (1 - RATE), RATE**2])
    return bool(stats.chisquare(observed, chances * first.size).pvalue > FALSE_ALARM)


@pytest.mark.parametrize(("sigma", "bound", "share"), [(0.7, 1.0, 1.0), (3.0, 0.5, 0.25)])
def test_noise_has_the_planned_deviation(
    deviation_is: DeviationIs, sigma: float, bound: float, share: float
) -> None:
    mechanism = Mechanism("popularity", 1.0, sigma, bound, share)
    values = mechanism.noise((200, 1000), from_operating_system())
    assert values.dtype == np.float64
    assert deviation_is(values, sigma * bound * share)


def test_noise_is_gaussian() -> None:
    values = Mechanism("step", 1.0, 2.0, 1.0).noise((100_000,), from_operating_system())
    assert stats.kstest(values, stats.norm(0.0, 2.0).cdf).pvalue > FALSE_ALARM


def test_the_chi_square_of_noise_sees_two_percent() -> None:
    """The power of the test above: a deviation 2% too small does not pass."""
    values = Mechanism("step", 1.0, 0.98, 1.0).noise((200_000,), from_operating_system())
    statistic = float((values**2).sum())
    assert stats.chi2.cdf(statistic, values.size) < 0.5 * FALSE_ALARM


def test_no_noise_is_exactly_zero() -> None:
    assert not Mechanism("step", 1.0, 0.0, 1.0).noise((50,), from_operating_system()).any()


def test_two_draws_of_noise_are_uncorrelated() -> None:
    mechanism, random = Mechanism("step", 1.0, 1.0, 1.0), from_operating_system()
    first, second = mechanism.noise((100_000,), random), mechanism.noise((100_000,), random)
    assert stats.pearsonr(first, second).pvalue > FALSE_ALARM


def test_noise_of_two_generators_is_uncorrelated() -> None:
    mechanism = Mechanism("step", 1.0, 1.0, 1.0)
    first, second = (mechanism.noise((100_000,), from_operating_system()) for _ in range(2))
    assert stats.pearsonr(first, second).pvalue > FALSE_ALARM


def test_generators_of_the_operating_system_never_share_a_stream() -> None:
    streams = [words(from_operating_system()) for _ in range(100)]
    assert len(set().union(*streams)) == 100 * 200


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_never_shares_a_stream(method: str) -> None:
    streams = [words(from_operating_system())]
    streams += [_in_another_process(method, _send_words) for _ in range(2)]
    assert len(set().union(*streams)) == 3 * 200


def test_a_forked_process_may_not_draw_from_its_parents_generator() -> None:
    random = from_operating_system()
    refusal = _in_another_process("fork", _send_refusal, random)
    assert "make a new one in each process" in refusal
    assert words(random)


def test_a_generator_that_was_sent_to_another_process_may_not_draw_there() -> None:
    refusal = _in_another_process("spawn", _send_refusal, from_operating_system())
    assert "make a new one in each process" in refusal


@pytest.mark.parametrize("bit", [0, 63, 64, 127])
def test_every_part_of_the_key_counts(monkeypatch: pytest.MonkeyPatch, bit: int) -> None:
    key = secrets.randbits(128)
    streams = []
    for value in (key, key ^ (1 << bit)):
        monkeypatch.setattr(secrets, "randbits", lambda bits, value=value: value)
        streams.append(words(from_operating_system()))
    assert not streams[0] & streams[1]


def test_the_key_is_asked_of_the_operating_system_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def record(bits: int) -> int:
        asked.append(bits)
        return 12345

    monkeypatch.setattr(secrets, "randbits", record)
    assert from_operating_system().secret
    assert asked == [128]


def test_numpys_global_seed_does_not_reach_the_noise() -> None:
    streams = []
    for _ in range(2):
        np.random.seed(0)
        streams.append(words(from_operating_system()))
    assert not streams[0] & streams[1]


def test_a_seed_repeats_its_stream_and_is_not_secret() -> None:
    assert words(from_seed(3, 1, 2, 0)) == words(from_seed(3, 1, 2, 0))
    assert not from_seed(3, 1, 2, 0).secret


@pytest.mark.parametrize("other", [(4, 1, 2, 1), (3, 2, 2, 1), (3, 1, 3, 1), (3, 1, 2, 2)])
def test_every_part_of_a_seed_counts(other: tuple[int, ...]) -> None:
    assert not words(from_seed(3, 1, 2, 1)) & words(from_seed(*other))


def test_sample_sizes_are_binomial() -> None:
    sizes = inclusions(4000, 40).sum(axis=1)
    # Sizes beyond 6 and 18 are rare; they share the cells at the ends.
    observed = np.bincount(np.clip(sizes, 6, 18), minlength=19)[6:]
    chances = stats.binom.pmf(np.arange(6, 19), 40, RATE)
    chances[0], chances[-1] = stats.binom.cdf(6, 40, RATE), stats.binom.sf(17, 40, RATE)
    assert stats.chisquare(observed, chances * 4000).pvalue > FALSE_ALARM


def test_sample_sizes_spread_as_independent_users_do() -> None:
    """A sum of 4000 squares, nearly normal: fails by chance three times in a million runs."""
    variance = 40 * RATE * (1 - RATE)
    squares = (inclusions(4000, 40).sum(axis=1) - 40 * RATE) ** 2
    fourth = variance * (1 + 3 * variance * (1 - 2 / 40))
    score = (squares.sum() - 4000 * variance) / np.sqrt(4000 * (fourth - variance**2))
    assert 2 * stats.norm.sf(abs(score)) > FALSE_ALARM


def test_every_user_enters_equally_often() -> None:
    counts = inclusions(4000, 40).sum(axis=0)
    statistic = ((counts - 4000 * RATE) ** 2 / (4000 * RATE * (1 - RATE))).sum()
    assert stats.chi2.sf(statistic, 40) > FALSE_ALARM


def test_two_users_enter_independently() -> None:
    entered = inclusions(4000, 40)
    assert independent(entered[:, ::2], entered[:, 1::2])


def test_a_user_enters_two_draws_independently() -> None:
    entered = inclusions(4000, 40)
    assert independent(entered[::2], entered[1::2])


def test_all_users_enter_at_sampling_rate_one() -> None:
    mechanism = Mechanism("step", 1.0, 1.0, 1.0)
    assert mechanism.sample(9, from_operating_system()).tolist() == list(range(9))
