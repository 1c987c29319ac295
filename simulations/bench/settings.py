"""Noise settings that a table of accuracy compares, as they are written on a command line."""

from dataclasses import dataclass

from shared.config import Config
from shared.errors import ConfigError
from simulations.variants import with_sections

SETTINGS = ("none", "shared:8", "shared:2", "own:8")


@dataclass(frozen=True)
class Setting:
    """A noise setting to measure.

    Attributes:
        noise: ``own``, ``shared`` or ``none``.
        epsilon: None without noise.
        aggregation: ``secure``, or ``plain``, which simulates a trusted sum where noise is shared.
    """

    noise: str
    epsilon: float | None
    aggregation: str = "plain"

    def configure(self, config: Config, seed: int) -> Config:
        """The configuration of one draw.

        Raises:
            ConfigError: if it does not go with secure sums.
        """
        budget = {} if self.epsilon is None else {"epsilon": self.epsilon}
        return with_sections(
            config,
            privacy={"noise": self.noise, **budget},
            aggregation={"mode": self.aggregation},
            run={"seed": seed},
        )


def parse_setting(text: str, aggregation: str = "plain") -> Setting:
    """A noise setting from ``own:8``, ``shared:8`` or ``none``.

    Args:
        text: of the option.
        aggregation: of shared noise; all others are plain.

    Raises:
        ConfigError: for anything else.
    """
    noise, colon, number = text.partition(":")
    if text == "none":
        return Setting("none", None)
    try:
        epsilon = float(number) if colon else 0.0
    except ValueError:
        epsilon = 0.0
    if noise not in ("own", "shared") or not 0.0 < epsilon < float("inf"):
        raise ConfigError(f"--setting {text}: expected none, own:EPSILON or shared:EPSILON")
    return Setting(noise, epsilon, aggregation if noise == "shared" else "plain")
