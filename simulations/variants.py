"""A run's configuration with other values in some sections, checked and settled like a new one.

``model_copy`` would leave what a configuration has settled as it was: a copy with two
organisations, or without noise, would still ask for secure sums.
"""

from collections.abc import Mapping
from typing import Any

from shared.config import LEAST_TO_AGGREGATE, Config, parse_config


def with_sections(config: Config, **sections: Mapping[str, Any]) -> Config:
    """Other values in some sections.

    Raises:
        ConfigError: if they do not go with the rest.
    """
    values = config.model_dump()
    for name, table in sections.items():
        values[name] = values[name] | dict(table)
    return parse_config(values, "the run's configuration with other values")


def plain_sums(config: Config) -> dict[str, dict[str, Any]]:
    """For ``with_sections``: each sends its own sum, with its own noise if there is any."""
    noise = "none" if config.privacy.noise == "none" else "own"
    return {"aggregation": {"mode": "plain"}, "privacy": {"noise": noise}}


def sums_among(config: Config, organisations: int) -> dict[str, dict[str, Any]]:
    """For ``with_sections``: sums as configured, or plain among too few for secure ones."""
    if config.aggregation.mode == "secure" and organisations < LEAST_TO_AGGREGATE:
        return plain_sums(config)
    return {}
