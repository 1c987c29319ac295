"""Copies of a configuration settle anew what follows from their values."""

from pathlib import Path

import pytest

from shared.config import Config, load_config
from shared.errors import ConfigError
from simulations.bench.deployment import _configured
from simulations.bench.peers.measure import comparable
from simulations.bench.settings import Setting, parse_setting
from simulations.simulate import without_noise
from simulations.variants import plain_sums, sums_among, with_sections

SECURE = Config()


def settled(config: Config) -> tuple[str, str]:
    return config.aggregation.mode, config.privacy.noise


def test_the_default_of_eight_organisations_is_secure() -> None:
    assert settled(SECURE) == ("secure", "shared")


def test_a_copy_without_noise_is_plain() -> None:
    assert settled(without_noise(SECURE)) == ("plain", "none")


@pytest.mark.parametrize("noise", ["own", "shared"])
def test_plain_sums_have_own_noise(noise: str) -> None:
    config = load_config(None, [f"privacy.noise={noise}"])
    assert settled(with_sections(config, **plain_sums(config))) == ("plain", "own")


def test_plain_sums_of_a_run_without_noise_stay_without() -> None:
    config = load_config(None, ["privacy.noise=none"])
    assert settled(with_sections(config, **plain_sums(config))) == ("plain", "none")


@pytest.mark.parametrize(
    ("organisations", "expected"),
    [(1, ("plain", "own")), (2, ("plain", "own")), (3, ("secure", "shared"))],
)
def test_sums_among_too_few_organisations_are_plain(
    organisations: int, expected: tuple[str, str]
) -> None:
    partition = {"organisations": organisations}
    copy = with_sections(SECURE, partition=partition, **sums_among(SECURE, organisations))
    assert settled(copy) == expected


def test_a_copy_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs partition\.organisations of 3 or more"):
        with_sections(SECURE, partition={"organisations": 2})
    with pytest.raises(ConfigError, match=r"training\.steps_per_round = 1"):
        with_sections(SECURE, training={"steps_per_round": 2})


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting("none", None), ("plain", "none")),
        (Setting("own", 2.0), ("plain", "own")),
        (Setting("shared", 2.0), ("plain", "shared")),
        (Setting("shared", 2.0, "secure"), ("secure", "shared")),
    ],
)
def test_a_setting_of_the_bench_says_how_its_sums_are_taken(
    setting: Setting, expected: tuple[str, str]
) -> None:
    drawn = setting.configure(SECURE, 7)
    assert settled(drawn) == expected
    assert drawn.run.seed == 7
    assert drawn.privacy.epsilon == (setting.epsilon or 8.0)


def test_only_shared_noise_is_measured_in_secure_sums() -> None:
    assert parse_setting("shared:8", "secure") == Setting("shared", 8.0, "secure")
    assert parse_setting("own:8", "secure") == Setting("own", 8.0, "plain")
    assert parse_setting("none", "secure") == Setting("none", None, "plain")


def test_a_secure_setting_with_two_organisations_is_refused() -> None:
    two = load_config(None, ["partition.organisations=2"])
    with pytest.raises(ConfigError, match=r"needs partition\.organisations of 3 or more"):
        Setting("shared", 8.0, "secure").configure(two, 0)


def test_peers_and_the_deployment_are_compared_with_plain_sums(tmp_path: Path) -> None:
    assert settled(comparable(SECURE, 2)) == ("plain", "own")
    assert settled(_configured(SECURE, 3, 2, tmp_path)) == ("plain", "own")
