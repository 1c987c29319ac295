"""What a server may try on one honest organisation, and the refusal that its ledger then has.

The server of these tests holds the keys of all other organisations; the agent, its gate, its egress
guard and its ledger are real. Here is what it may try with the order of the phases; what it may try
within each has files of its own.
"""

from pathlib import Path

import numpy as np
import pytest

from shared.errors import RefusedError
from shared.keys import SigningKey
from tests.secure.house import Hostile, hostile
from tests.secure.parts import Arrays


def test_an_honest_conversation_is_answered_and_on_record(server: Hostile) -> None:
    server.deal()
    server.mask()
    assert server.ask("unmask", server.unmasking())["shares"].shape == (4, 32)
    ledger = server.victim.ledger
    assert [r.mechanism for r in ledger.releases()] == [
        "protocol",
        "protocol",
        "popularity",
        "protocol",
    ]
    (intent,) = ledger.intents()
    assert intent.participants == server.roster.signers
    assert (intent.least_participants, intent.aggregation) == (3, "secure")
    assert ledger.refusals() == ()


def test_every_phase_asked_again_is_answered_with_the_same_bytes(server: Hostile) -> None:
    server.deal()
    asked: dict[str, Arrays] = {"keys": {}, "shares": server.roster.to_arrays()}
    server.mask()
    asked |= {"masked": server.masking(server.own), "unmask": server.unmasking()}
    first = {phase: server.ask(phase, arrays) for phase, arrays in asked.items()}
    for phase, arrays in asked.items():
        again = server.ask(phase, arrays)
        assert again.keys() == first[phase].keys()
        assert all((again[name] == value).all() for name, value in first[phase].items())
    assert server.spent == 1


ORDER = "no keys were announced for this attempt, or others since"


@pytest.mark.parametrize("phase", ["shares", "masked", "unmask"])
def test_no_phase_comes_before_the_keys(server: Hostile, phase: str, folder: Path) -> None:
    with hostile(folder / "other") as helper:
        helper.deal()
        helper.mask()
        asked = {
            "shares": helper.roster.to_arrays(),
            "masked": helper.masking(helper.own),
            "unmask": helper.unmasking(),
        }[phase]
    assert server.refusal(phase, asked) == ("secure.order", ORDER)
    assert server.spent == 0


def test_no_vector_is_masked_before_shares_are_dealt(server: Hostile) -> None:
    server.announce()
    asked = {"keys": np.zeros(1, dtype=np.uint64), "secure.senders": np.arange(4)}
    assert server.refusal("masked", asked) == (
        "secure.order",
        "no shares were dealt in this attempt",
    )


def test_no_shares_are_given_before_a_vector_has_left(server: Hostile) -> None:
    server.deal()
    server.receipts[server.own] = bytes(64)
    assert server.refusal("unmask", server.unmasking()) == (
        "secure.order",
        "no masked vector has left in this attempt",
    )


def test_nor_when_the_intent_is_written_and_nothing_has_left(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.deal()

    def fails(*_: object) -> None:
        raise RuntimeError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr("client.session.Session.masked", fails)
        with pytest.raises(RefusedError, match="the computation failed at house"):
            server.ask("masked", server.masking(server.own))
    server.receipts[server.own] = bytes(64)
    assert server.spent == 1
    assert server.refusal("unmask", server.unmasking()) == (
        "secure.order",
        "no masked vector has left in this attempt",
    )
    # Whatever was drawn is gone, and other noise under the same masks would tell a difference.
    assert server.refusal("masked", server.masking(server.own)) == (
        "request",
        "request run/0/popularity has spent its budget already",
    )


def test_when_another_attempt_has_begun_nothing_of_the_one_before_goes_on(server: Hostile) -> None:
    server.deal()
    server.mask()
    asked = {
        "shares": server.roster.to_arrays(),
        "masked": server.masking(server.own),
        "unmask": server.unmasking(),
    }
    server.attempt = 1
    server.ask("keys")
    server.attempt = 0
    for phase, arrays in asked.items():
        assert server.refusal(phase, arrays) == ("secure.order", ORDER)
    assert server.refusal("keys") == (
        "secure.replay",
        "this attempt was answered under other keys",
    )
    assert server.spent == 1


def test_a_state_that_was_put_back_from_a_copy_gives_no_other_shares(server: Hostile) -> None:
    """The ledger has which shares have left."""
    server.deal()
    server.mask()
    path = server.victim.directory / "keys" / "secure_sum.json"
    copy = path.read_text()
    first = server.ask("unmask", server.unmasking())
    path.write_text(copy)
    assert server.refusal("unmask", server.unmasking(server.with_own(3))) == (
        "request",
        "PrivacyError; the agent's own log says more",
    )
    path.write_text(copy)
    assert (server.ask("unmask", server.unmasking())["shares"] == first["shares"]).all()


def test_a_state_that_is_gone_is_not_begun_anew_after_the_vector_has_left(server: Hostile) -> None:
    server.deal()
    server.mask()
    (server.victim.directory / "keys" / "secure_sum.json").unlink()
    assert server.refusal("keys") == (
        "secure.replay",
        "this attempt was answered under other keys",
    )


def test_a_request_of_another_server_gets_nothing_of_this_attempt(server: Hostile) -> None:
    server.deal()
    asked = server.masking(server.own)
    server.key = SigningKey.load_or_create(server.victim.directory / "other-server.pem")
    assert server.refusal("masked", asked) == ("secure.order", ORDER)
    assert server.spent == 0


def test_a_mechanism_that_the_plan_does_not_have_is_not_added_up(server: Hostile) -> None:
    object.__setattr__(server.plan, "popularity", None)
    assert server.refusal("keys") == ("plan", "the plan has no secure sum of popularity")
