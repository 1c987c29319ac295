"""A process that is killed between two phases, or in the middle of writing its state."""

import json
import os
import signal
import stat
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

from client import session
from client.session import Session
from shared.errors import FederationError, PrivacyError, RefusedError
from shared.messages import Request
from tests.secure.conftest import MakeFederation
from tests.secure.house import hostile
from tests.secure.parts import PHASES, Arrays, Change, Federation

WHO = 2


def reopened(federation: Federation, number: int = WHO) -> None:
    """A new process over the same file."""
    member = federation.members[number]
    member.session = Session(member.path, member.key)


def test_processes_that_are_new_for_every_phase_add_up(make: MakeFederation) -> None:
    federation = make(5, 4)

    def killed(number: int) -> Change:
        def change(arrays: Arrays) -> Arrays:
            reopened(federation, number)
            return arrays

        return change

    federation.changes = {(n, phase): killed(n) for n in range(5) for phase in PHASES}
    federation.lost = {1: "masked"}
    assert federation.total().values.tolist() == federation.sum_of([0, 2, 3, 4]).tolist()


@pytest.mark.parametrize("phase", PHASES)
def test_a_new_process_answers_a_phase_that_was_answered_with_the_same_bytes(
    make: MakeFederation, phase: str
) -> None:
    federation = make(4, 3)
    federation.total()
    (first,) = [one for one in federation.seen if (one.phase, one.number) == (phase, WHO)]
    reopened(federation)
    again = federation.members[WHO].act(phase, first.request)
    assert again.keys() == first.reply.keys()
    assert all((again[name] == value).all() for name, value in first.reply.items())


def test_shares_are_dealt_once_and_given_once(make: MakeFederation) -> None:
    """Dealt twice, the shares of one secret would lie on two polynomials."""
    federation = make(4, 3)
    asked: dict[str, Request] = {}
    member = federation.members[WHO]
    honest = member.act

    def act(phase: str, request: Request, mechanism: str = "step") -> Arrays:
        first = honest(phase, request, mechanism)
        reopened(federation)
        again = honest(phase, request, mechanism)
        assert all((again[name] == value).all() for name, value in first.items())
        asked[phase] = request
        return again

    member.act = act  # type: ignore[method-assign]
    assert federation.total().values.tolist() == federation.sum_of(range(4)).tolist()
    assert tuple(asked) == PHASES


def test_the_state_is_for_its_owner_alone(make: MakeFederation) -> None:
    federation = make(4, 3)
    modes = set()

    def look(arrays: Arrays) -> Arrays:
        modes.add(stat.S_IMODE(federation.members[WHO].path.stat().st_mode))
        return arrays

    federation.changes = {(WHO, phase): look for phase in PHASES}
    before = os.umask(0)
    try:
        federation.total()
    finally:
        os.umask(before)
    assert modes == {0o600}


@pytest.mark.parametrize("phase", PHASES)
def test_a_process_that_is_killed_while_it_writes_leaves_the_state_before_whole(
    make: MakeFederation, phase: str
) -> None:
    federation = make(4, 3)
    federation.total()
    member = federation.members[WHO]
    honest, killed = member.act, []

    def half(value: object, file: TextIO) -> None:
        file.write(json.dumps(value)[:-9])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def act(asked: str, request: Request, mechanism: str = "step") -> Arrays:
        if asked == phase:
            before = member.path.read_text()
            child = os.fork()
            if not child:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(session.json, "dump", half)
                    honest(asked, request, mechanism)
                os._exit(1)
            killed.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
            assert member.path.read_text() == before
            assert len(parts(member.path)) == 1
            reopened(federation)
        return honest(asked, request, mechanism)

    member.act = act  # type: ignore[method-assign]
    total = federation.total(round_number=2)
    assert killed == [signal.SIGKILL]
    assert total.values.tolist() == federation.sum_of(range(4)).tolist()
    # What the killed one had begun to write has secrets in it.
    assert parts(member.path) == []


def parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(".secure_sum.json.*"))


def test_what_a_killed_process_of_the_same_number_left_is_in_nobodys_way(
    make: MakeFederation,
) -> None:
    """In a container every process may be number 1."""
    federation = make(4, 3)
    left = federation.members[WHO].path.with_name(f".secure_sum.json.{os.getpid()}.part")
    left.write_text("half of it")
    assert federation.total().names == federation.names(range(4))
    assert not left.exists()


def secrets_of(state: dict[str, object]) -> set[str]:
    """Everything in a state that would help to take masks off."""
    found = {str(state[name]) for name in ("cipher_private", "mask_private", "seed")}
    held, own = state["held"], state["own"]
    assert isinstance(held, dict)
    assert isinstance(own, list)
    found |= {share for pair in held.values() for share in pair}
    return found | set(own)


def test_secrets_are_gone_from_the_disk_when_the_shares_were_given(make: MakeFederation) -> None:
    federation = make(4, 3)
    before: set[str] = set()

    def look(arrays: Arrays) -> Arrays:
        before.update(secrets_of(federation.members[WHO].state))
        return arrays

    federation.changes = {(WHO, "masked"): look}
    federation.lost = {0: "masked"}
    federation.total()
    # Three of its own, and two shares of each of four.
    assert len(before) == 11
    assert all(len(secret) == 64 for secret in before)
    member = federation.members[WHO]
    given = set(member.state["given"])
    assert len(given) == 4
    text = "".join(p.read_text(errors="replace") for p in member.path.parent.iterdir())
    assert {secret for secret in before if secret in text} == given


@pytest.mark.parametrize("phase", PHASES[:3])
def test_secrets_are_gone_from_the_disk_when_another_attempt_began(
    make: MakeFederation, phase: str
) -> None:
    federation = make(4, 3)
    before: set[str] = set()

    def look(arrays: Arrays) -> Arrays:
        before.update(secrets_of(federation.members[WHO].state) - {""})
        raise RefusedError("lost")

    federation.changes = {(WHO, phase): look}
    federation.lost = {0: phase}
    with pytest.raises(FederationError):
        federation.total(repeat=False)
    federation.changes, federation.lost = {}, {}
    federation.total(round_number=2)
    text = federation.members[WHO].path.read_text()
    assert len(before) >= 3
    assert not [secret for secret in before if secret in text]


def test_a_state_that_cannot_be_read_says_what_to_do(make: MakeFederation) -> None:
    federation = make(4, 3)
    federation.total()
    member = federation.members[WHO]
    member.path.write_text("{")
    reopened(federation)
    (first,) = [one for one in federation.seen if (one.phase, one.number) == ("keys", WHO)]
    with pytest.raises(PrivacyError, match="delete it, and this attempt at a secure sum goes on"):
        member.act("keys", first.request)


def test_a_vector_is_not_masked_a_second_time_after_the_shares_were_given(
    make: MakeFederation,
) -> None:
    federation = make(4, 3)
    federation.total()
    with pytest.raises(FederationError, match="no participants to mask a vector with"):
        federation.members[WHO].session.masked(np.zeros(6, dtype=np.uint64), 5)


def test_no_two_attempts_have_a_secret_or_a_stream_in_common(make: MakeFederation) -> None:
    federation = make(4, 3)
    found: list[str] = []
    vectors: list[bytes] = []

    def look(arrays: Arrays) -> Arrays:
        for member in federation.members:
            found.extend(secrets_of(member.state))
        return arrays

    def keep(arrays: Arrays) -> Arrays:
        vectors.append(arrays["masked"].tobytes())
        return arrays

    federation.changes = {(3, "masked"): look, (WHO, "masked"): keep}
    federation.total(round_number=1)
    federation.total(round_number=2)
    # Of four members in two attempts: three secrets, and two shares of each member's.
    assert len(found) == 4 * 2 * (3 + 2 * 4)
    assert len(set(found)) == len(found)
    assert len(set(vectors)) == 2


def test_the_state_lies_in_the_folder_of_the_keys(folder: Path) -> None:
    with hostile(folder) as server:
        server.deal()
        path = server.victim.directory / "keys" / "secure_sum.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
