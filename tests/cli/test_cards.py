"""The card beside an adapter: what it promises, and against whom."""

import math

import pytest

from shared.cards import MaskedSums, adapter_card
from shared.config import Config, load_config

SECURE = Config()
OWN = load_config(None, ["aggregation.mode=plain"])
SIMULATED = load_config(None, ["aggregation.mode=plain", "privacy.noise=shared"])
SUMS = MaskedSums(7, 1, 27.3423)


def promised(config: Config, epsilon: float | None, sums: MaskedSums | None = None) -> str:
    """The line on privacy."""
    card = adapter_card(config, epsilon, 1e-4, "run", 25, sums)
    (line,) = [line for line in card.splitlines() if line.startswith("- Privacy: ")]
    return line.removeprefix("- Privacy: ")


def test_a_card_of_secure_sums_says_against_whom_each_epsilon_holds() -> None:
    assert promised(SECURE, 7.9991, SUMS) == (
        "epsilon 8 at delta 0.0001 for each organisation, statistics included; unit: user; "
        "adjacency: add or remove one user. The server saw only sums of at least 7 organisations. "
        "The noise was added once: epsilon holds against the server with up to 1 of them on its "
        "side; with all others there it is 27.343."
    )


def test_a_card_of_an_epsilon_alone_that_bounds_nothing_says_so() -> None:
    assert promised(SECURE, 8.0, MaskedSums(44, 1, math.inf)).endswith("there nothing is promised.")


def test_a_card_of_own_noise_in_secure_sums_has_one_epsilon() -> None:
    assert promised(SECURE, 8.0, MaskedSums(7, 1, 8.0)).endswith(
        "The server saw only sums of at least 7 organisations. Each added all of its noise."
    )


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (OWN, " Each organisation added all of its noise to what it sent."),
        (SIMULATED, " The noise was added once for all organisations: a simulation of a trusted"),
    ],
)
def test_a_card_of_plain_sums_promises_no_secure_ones(config: Config, sentence: str) -> None:
    line = promised(config, 8.0)
    assert sentence in line
    assert "The server saw only" not in line


def test_a_card_without_a_guarantee_has_no_epsilon() -> None:
    line = promised(SECURE, None, SUMS)
    assert line.startswith("**not private**")
    assert "epsilon" not in line
