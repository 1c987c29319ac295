"""An organisation's policy: what it lets happen to its users' data.

Read from ``policy.toml`` at the organisation, where no message can change it. ``shared.judge``
applies it.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from shared.accounting import SMALLEST_DELTA
from shared.chain import canonical
from shared.entries import exact
from shared.errors import PrivacyError
from shared.sections import Count, Positive, Section, Share, read_toml, sentence

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sha256Prefix = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class OrganisationRules(Section):
    """Who the organisation is; public."""

    name: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        description="Name under which the federation knows it."
    )
    declared_users: Count = Field(
        description="Size it declares. A public constant: weighs its updates and divides its sums."
    )


class BudgetRules(Section):
    """What all releases together may cost."""

    epsilon: Annotated[float, Field(gt=0.0, le=50.0)] | None = Field(
        None, description='Most epsilon, ever. Left out only where mechanism.noise = "none".'
    )
    delta: Annotated[float, Field(ge=SMALLEST_DELTA, lt=1.0)] = Field(
        description="At which epsilon counts; at most 1 / declared_users."
    )
    statistics_share: Share = Field(
        1.0, description="Most of the budget, in mu squared, for the two statistics."
    )
    adapter_share: Share = Field(1.0, description="The same for training steps.")
    evaluation_share: Share = Field(0.1, description="The same for private evaluation.")
    shared_by_federations: bool = Field(
        True,
        description="One budget for all federations. false: one for each of federations.allowed.",
    )


class MechanismRules(Section):
    """How anything is released."""

    noise: Literal["own", "shared", "none"] = Field(
        "own", description="own, or in experiments shared or none (no guarantee)."
    )
    distribution: tuple[Literal["gaussian", "discrete"], ...] = Field(
        ("gaussian", "discrete"), description="Kinds of noise that are allowed."
    )
    least_noise_multiplier: Annotated[float, Field(ge=0.0)] = Field(
        0.4, description="Least noise, as a multiple of one user's largest contribution."
    )
    least_noise_share: Share = Field(
        1.0, description="Least part of that noise that this organisation adds itself."
    )
    greatest_clipping_norm: Positive = Field(
        1.0, description="Longest that one user's gradient may count."
    )
    most_steps_per_round: Count = Field(100, description="Most private steps in one round.")
    most_steps_per_run: Count = Field(10_000, description="Most private steps in one run.")
    most_rounds_per_day: Count = Field(1_000, description="Most adapter rounds in 24 hours.")
    allow_repeatable_noise: bool = Field(
        False, description="Noise from a seed, for experiments: no guarantee."
    )


class ModelRules(Section):
    """Which model may be trained here."""

    allowed_bases: tuple[Sha256, ...] = Field(
        (), description="SHA-256 of the weights of allowed base models; empty: any."
    )
    greatest_rank: Count = Field(64, description="Greatest rank of an adapter.")
    most_parameters: Count = Field(
        50_000_000, description="Most numbers that one adapter update may carry."
    )


class FederationRules(Section):
    """Who may ask."""

    allowed: tuple[Sha256, ...] = Field(
        (),
        description="Public keys of servers that may ask; empty: any in an experiment, none where "
        "an agent is deployed.",
    )
    plans: tuple[Sha256Prefix, ...] = Field(
        (),
        description="Hashes of privacy plans that may run, or their first 8 or more digits; empty: "
        "any that the rest of this policy allows.",
    )


class TrustRules(Section):
    """Whom this organisation trusts with how much, where noise is added for a sum of several."""

    binds: Literal["joint", "alone"] = Field(
        "alone",
        description="Which epsilon the budget binds. alone: all others are against this "
        "organisation, its own noise counts; joint: the server and at most colluders others are.",
    )
    colluders: int = Field(
        1, ge=0, description="Other organisations that may join hands with the server."
    )
    least_participants: Annotated[int, Field(ge=3)] = Field(
        3, description="Fewest organisations in a secure sum."
    )
    members: tuple[Sha256, ...] = Field(
        (),
        description="Public keys of the organisations that count as participants; empty: any in an "
        "experiment, none where an agent is deployed.",
    )
    simulated_sum: bool = Field(
        False,
        description="Noise for a sum that nothing secures, for experiments: no guarantee outside "
        "them.",
    )


class EgressRules(Section):
    """What may leave."""

    releases: tuple[Literal["popularity", "cooccurrence", "step", "evaluation"], ...] = Field(
        ("popularity", "cooccurrence", "step", "evaluation"),
        description="Noised results that may leave.",
    )
    fields: tuple[Literal["name", "declared_users", "catalogue_keys", "ledger_head"], ...] = Field(
        ("name", "declared_users", "catalogue_keys", "ledger_head"),
        description="Public fields that may leave. Without catalogue_keys: no statistics.",
    )


class Policy(Section):
    """All rules of an organisation."""

    organisation: OrganisationRules
    budget: BudgetRules
    mechanism: MechanismRules = Field(default_factory=MechanismRules)
    model: ModelRules = Field(default_factory=ModelRules)
    federations: FederationRules = Field(default_factory=FederationRules)
    trust: TrustRules = Field(default_factory=TrustRules)
    egress: EgressRules = Field(default_factory=EgressRules)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        declared = self.organisation.declared_users
        if self.budget.delta > 1.0 / declared:
            raise ValueError(
                f"budget.delta is {self.budget.delta:g}, more than 1 / declared_users "
                f"({1.0 / declared:.3g}): one user in full would be within it; lower it"
            )
        if (self.budget.epsilon is None) != (self.mechanism.noise == "none"):
            raise ValueError(
                'budget.epsilon is left out exactly where mechanism.noise is "none": set one'
            )
        if not self.budget.shared_by_federations and not self.federations.allowed:
            raise ValueError(
                "budget.shared_by_federations is false but federations.allowed is empty: any "
                "server could open a budget of its own; list their keys"
            )
        return self

    def to_record(self) -> dict[str, Any]:
        """The policy as ledgers carry it: floats as exact strings."""
        record: dict[str, Any] = exact(self.model_dump(mode="json"))
        return record

    def differences(self, before: "Policy") -> str:
        """Every rule in which this policy is another than the one before, as text."""
        old, new = before.to_record(), self.to_record()
        return "; ".join(
            f"{section}.{name} is {value}, was {old[section][name]}"
            for section, rules in new.items()
            for name, value in rules.items()
            if old[section][name] != value
        )

    @property
    def sha256(self) -> str:
        """Hash over the canonical form of ``to_record``."""
        return hashlib.sha256(canonical(self.to_record()).encode()).hexdigest()

    @classmethod
    def from_record(cls, record: Any) -> Self:
        """Read a policy back from a ledger.

        Raises:
            PrivacyError: if it is none, or not in its exact form.
        """
        policy = cls.from_values(record, "the recorded policy")
        if policy.to_record() != record:
            raise PrivacyError("the recorded policy is not in its exact form")
        return policy

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``policy.toml``.

        Raises:
            PrivacyError: names the file and every key that is wrong.
        """
        return cls.from_values(read_toml(path, PrivacyError), str(path))

    @classmethod
    def from_values(cls, values: Any, where: str) -> Self:
        """A policy from nested values; ``where`` names their origin in an error.

        Raises:
            PrivacyError: names every key that is wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise PrivacyError(f"{where}: {sentence(error, cls)}") from error
