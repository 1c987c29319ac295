"""What the records of a ledger say, by kind; numbers that enter accounting are exact strings.

``open`` starts a ledger, ``policy`` amends what may be spent, ``intent`` spends, ``release`` says
what left, ``refusal`` what did not, ``anchor`` that a server has seen a head.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from shared.accounting import Event
from shared.chain import Record
from shared.errors import PrivacyError
from shared.plan import Mechanism, PrivacyPlan

LONGEST_SENTENCE = 1800


@dataclass(frozen=True)
class Opening:
    """First record: whose ledger this is and what it promises.

    Attributes:
        public_key: of the organisation; signs every record.
        policy: in force from here, as ``Policy.to_record`` gives it.
        policy_sha256: its hash.
        unit, adjacency: of the guarantee.
        population: keyed fingerprint of the users; equal for equal users under one secret.
        purpose: ``federation``, or ``experiment`` where a researcher holds all the data.
    """

    public_key: str
    policy: Mapping[str, Any]
    policy_sha256: str
    unit: str
    adjacency: str
    population: str
    purpose: str


@dataclass(frozen=True)
class Amendment:
    """A new policy, in force for what follows."""

    policy: Mapping[str, Any]
    policy_sha256: str


@dataclass(frozen=True)
class Intent:
    """A release about to be computed; its cost counts from here.

    Attributes:
        run, round: that it belongs to.
        federation: public key of the server that asked, or empty.
        mechanism: ``popularity``, ``cooccurrence``, ``step`` or ``evaluation``.
        sampling_rate, noise_multiplier, sensitivity, noise_share: of the mechanism.
        count: releases of it, which are the private steps of a round.
        noise: who adds it: ``own``, ``shared`` or ``none``.
        distribution: ``gaussian`` or ``discrete``.
        aggregation: ``secure``, or ``plain`` where the server sees what this organisation sends.
        least_participants: of a secure sum; below them it is never unmasked.
        participants: public keys of the organisations whose masks are in what leaves, this one
            among them; empty where it is not masked.
        secret_randomness: False where noise or sampling can be repeated from a seed.
        plan: hash of the privacy plan.
        adapter_before: hash of the adapter that training starts from, or empty.
        policy: hash of the policy that allowed it.
        population: keyed fingerprint of the users at this time.
        code: version and hash of the code that computes it.
        canaries: pretend users that ride along.
    """

    run: str
    round: int
    federation: str
    mechanism: str
    sampling_rate: float
    noise_multiplier: float
    sensitivity: float
    noise_share: float
    count: int
    noise: str
    distribution: str
    aggregation: str
    least_participants: int
    participants: tuple[str, ...]
    secret_randomness: bool
    plan: str
    adapter_before: str
    policy: str
    population: str
    code: str
    canaries: int

    @classmethod
    def of(cls, mechanism: Mechanism, plan: PrivacyPlan, count: int, **rest: Any) -> Self:
        """The intent of a plan's mechanism.

        Args:
            mechanism: of the release.
            plan: that it belongs to.
            count: releases of it.
            rest: the attributes that neither of them says.
        """
        return cls(
            mechanism=mechanism.name,
            sampling_rate=mechanism.sampling_rate,
            noise_multiplier=mechanism.noise_multiplier,
            sensitivity=mechanism.sensitivity,
            noise_share=mechanism.noise_share,
            count=count,
            noise=plan.noise.value,
            distribution=mechanism.distribution,
            aggregation=plan.aggregation.value,
            least_participants=plan.least_participants,
            plan=plan.sha256,
            **rest,
        )

    def event(self, binds: str = "joint") -> Event:
        """What it costs.

        Args:
            binds: ``joint``, against a server that sees the sum and the noise in it; ``alone``,
                where everybody else is against this organisation and only its own noise counts.
        """
        own = self.noise_share if binds == "alone" else 1.0
        return Event(self.sampling_rate, self.noise_multiplier * own, self.count)

    @property
    def private(self) -> bool:
        """Whether noise was added that nobody can repeat."""
        return self.noise_multiplier > 0.0 and self.secret_randomness


@dataclass(frozen=True)
class Release:
    """What left an organisation.

    Attributes:
        mechanism: that made it, or ``none`` for a reply of public fields alone.
        intent: number of the intent's record; 0 for public fields.
        sha256: over the arrays.
        size_bytes: of the arrays.
        arrays: one line each: name, dtype and shape.
        fields: names of the public fields that went along.
    """

    mechanism: str
    intent: int
    sha256: str
    size_bytes: int
    arrays: tuple[str, ...]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Refusal:
    """What was asked and not done.

    Attributes:
        rule: name of the rule, such as ``budget.epsilon``.
        sentence: what was found, and what the rule allows.
    """

    rule: str
    sentence: str

    def shortened(self) -> "Refusal":
        """With a sentence of bounded length: parts of it may come from the asker."""
        return dataclasses.replace(self, sentence=self.sentence[:LONGEST_SENTENCE])


Entry = Opening | Amendment | Intent | Release | Refusal

_CLASSES: dict[str, type[Any]] = {
    "open": Opening,
    "policy": Amendment,
    "intent": Intent,
    "release": Release,
    "refusal": Refusal,
}
_FIELDS = {
    kind: {field.name: field.type for field in dataclasses.fields(kind)}
    for kind in _CLASSES.values()
}


def exact(value: Any) -> Any:
    """``value`` with every float, and every count of an intent, as text that reads back the same.

    The shortest decimal that names one double exactly: what was accounted is what is written.
    """
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(k): exact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [exact(v) for v in value]
    return value


def to_body(entry: Entry) -> dict[str, Any]:
    """The body of an entry's record."""
    body: dict[str, Any] = exact(vars(entry))
    if isinstance(entry, Intent):
        body["count"] = str(entry.count)
    return body


def parse_entry(record: Record) -> Entry | None:
    """The entry of a record; None for an anchor, which ``shared.chain.Anchor`` reads.

    Raises:
        PrivacyError: if fields are missing, unknown, of another type or not in their exact form.
    """
    if record.kind == "anchor":
        return None
    kind = _CLASSES.get(record.kind)
    if kind is None:
        raise PrivacyError(f"record {record.sequence}: {record.kind!r} is no kind of entry")
    fields = _FIELDS[kind]
    try:
        if record.body.keys() != fields.keys():
            raise ValueError(f"its fields are {sorted(record.body)}")
        entry: Entry = kind(**{k: _read(record.body[k], t) for k, t in fields.items()})
        if to_body(entry) != dict(record.body):
            raise ValueError("a number is not in its exact form")
    except (ValueError, TypeError, RecursionError) as error:
        raise PrivacyError(f"record {record.sequence}: not a whole {record.kind} ({error})") from (
            error
        )
    return entry


def _read(value: Any, kind: Any) -> Any:
    if kind is float or kind is int:
        if kind is float and type(value) is not str:
            raise ValueError(f"{value!r} is not an exact decimal string")
        return kind(value) if type(value) in (str, int) else _wrong(value)
    if kind is str or kind is bool:
        return value if type(value) is kind else _wrong(value)
    if kind == tuple[str, ...]:
        return (
            tuple(value)
            if isinstance(value, list) and all(type(v) is str for v in value)
            else (_wrong(value))
        )
    return value if isinstance(value, dict) else _wrong(value)


def _wrong(value: Any) -> Any:
    raise ValueError(f"{value!r} has another type")
