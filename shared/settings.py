"""The public settings of a run that travel with its requests; all others are an organisation's own.

A deployed agent takes from the server what both sides must agree on (the model's shape, how the
statistics are counted, how scores are fused) and nothing that bears on its guarantee: noise, seeds,
budget, data and files come from its own policy and ``agent.toml``.
"""

import json

from shared.chain import canonical
from shared.config import Config, FusionSection, ModelSection, StatisticsSection, parse_config
from shared.errors import ConfigError

SHARED = {
    "run": ("seed",),
    # Where a warm start lies is local; its weights are in the model's hash.
    "model": tuple(name for name in ModelSection.model_fields if name != "warm_start"),
    "privacy": (
        "clipping",
        "popularity_share",
        "cooccurrence_share",
        "adapter_share",
        "evaluation_share",
    ),
    "statistics": tuple(StatisticsSection.model_fields),
    "training": ("steps_per_round", "step_size"),
    "fusion": tuple(FusionSection.model_fields),
    "evaluation": ("cutoff",),
}


def shared_settings(config: Config) -> str:
    """The shared settings of a run, as canonical JSON."""
    values = config.model_dump(mode="json")
    return canonical({s: {key: values[s][key] for key in keys} for s, keys in SHARED.items()})


def adopt(local: Config, text: str) -> Config:
    """The configuration ``local`` with the shared settings in ``text``.

    Raises:
        ConfigError: if the text is not exactly what ``shared_settings`` writes.
    """
    try:
        values = json.loads(text)
        found = {section: tuple(values[section]) for section in values}
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"the request's settings are no table of sections ({error})") from error
    expected = {section: set(keys) for section, keys in SHARED.items()}
    if {section: set(keys) for section, keys in found.items()} != expected:
        raise ConfigError(
            "the request's settings are not those of this version of tacit; use the same version "
            "on both sides"
        )
    given = parse_config(values, "the request's settings")
    return local.model_copy(
        update={
            section: getattr(local, section).model_copy(
                update={key: getattr(getattr(given, section), key) for key in keys}
            )
            for section, keys in SHARED.items()
        }
    )
