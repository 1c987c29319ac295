"""A server that tells each organisation another tale: what the two bounds of a secure sum forbid.

Each test within the bounds has one just beyond them, where the same attack works.
"""

import itertools
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from shared.errors import FederationError, RefusedError
from shared.roster import MASK_KEY, SELF_MASK, Roster, context_of
from shared.tolerance import check_tolerance, least_participants, untolerated
from shared.wire import arrays_sha256
from tests.secure.adversary import View
from tests.secure.conftest import MakeFederation
from tests.secure.parts import Arrays, Change, Federation

FIGURES = [
    (n, least, colluders)
    for n in range(3, 12)
    for least in range(3, n + 1)
    for colluders in range(least)
]
WITHIN = [figures for figures in FIGURES if not untolerated(*figures)]


def tales(honest: int, targets: int, callers: int, most: int) -> list[set[int]] | None:
    """Whom each honest organisation is told to be lost, so that the first ``targets`` of them are.

    Args:
        honest: organisations.
        targets: that shall be taken out of the sum.
        callers: that must call one lost, beside the colluders.
        most: that each believes to be lost.

    Returns:
        None where there is no way: a flow from callers to targets, none calling itself lost.
    """
    source, sink = 0, 1 + honest + targets
    capacity = np.zeros((sink + 1, sink + 1), dtype=np.int32)
    capacity[source, 1 : 1 + honest] = most
    for caller, target in itertools.product(range(honest), range(targets)):
        capacity[1 + caller, 1 + honest + target] = caller != target
    capacity[1 + honest : sink, sink] = callers
    found = maximum_flow(csr_array(capacity), source, sink)
    if found.flow_value < targets * callers:
        return None
    flow = found.flow.toarray()
    return [
        {target for target in range(targets) if flow[1 + caller, 1 + honest + target] > 0}
        for caller in range(honest)
    ]


def most_taken_out(number: int, least: int, colluders: int) -> int:
    """Most honest organisations that the best tales take out of a sum."""
    honest, lost = number - colluders, number - least
    return max(
        targets
        for targets in range(honest + 1)
        if tales(honest, targets, least - colluders, lost) is not None
    )


def both_secrets(number: int, least: int, colluders: int) -> bool:
    """Whether the honest ones can be told such tales of one that both its secrets come out."""
    callers = range(number - colluders + 1)
    return any(
        in_it + colluders >= least and number - colluders - in_it + colluders >= least
        for in_it in callers
    )


@pytest.mark.parametrize("figures", WITHIN, ids=str)
def test_within_the_bounds_no_tale_takes_out_more_than_may_be_lost(
    figures: tuple[int, int, int],
) -> None:
    number, least, _ = figures
    assert most_taken_out(*figures) <= number - least
    assert not both_secrets(*figures)


@pytest.mark.parametrize("figures", sorted(set(FIGURES) - set(WITHIN)), ids=str)
def test_beyond_either_bound_there_is_a_tale_that_does_harm(figures: tuple[int, int, int]) -> None:
    """So the bounds refuse nothing that would have been safe."""
    number, least, _ = figures
    assert most_taken_out(*figures) > number - least or both_secrets(*figures)


def test_the_search_finds_what_trying_everything_finds() -> None:
    for number, least, colluders in ((4, 3, 1), (5, 3, 1), (5, 4, 0), (5, 3, 0)):
        honest, lost = number - colluders, number - least
        choices = [
            [
                set(chosen)
                for size in range(lost + 1)
                for chosen in itertools.combinations(set(range(honest)) - {own}, size)
            ]
            for own in range(honest)
        ]
        most = max(
            sum(sum(v in told for told in tale) >= least - colluders for v in range(honest))
            for tale in itertools.product(*choices)
        )
        assert most == most_taken_out(number, least, colluders)


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ((3, 3, 0), ""),
        ((3, 3, 1), ""),
        ((4, 3, 1), ""),
        ((5, 4, 1), ""),
        ((8, 7, 1), ""),
        ((20, 17, 1), ""),
        ((2, 2, 0), "needs 3 or more"),
        ((3, 4, 0), "needs 3 or more"),
        ((5, 4, -1), "needs 3 or more"),
        ((3, 3, 3), "too few would have to agree"),
        ((5, 3, 1), "too few would have to agree"),
        ((4, 3, 2), "too few would have to agree"),
        ((5, 3, 0), "could take more than 2 out of the sum"),
        ((20, 16, 1), "could take more than 4 out of the sum"),
    ],
)
def test_figures_that_hold_and_those_that_do_not(figures: tuple[int, int, int], says: str) -> None:
    found = untolerated(*figures)
    assert says in found
    assert bool(says) == bool(found)
    if says:
        with pytest.raises(Exception, match=says):
            check_tolerance(*figures)


@pytest.mark.parametrize(
    ("organisations", "dropouts", "colluders", "least"),
    [
        (3, -1, 1, 3),
        (7, -1, 1, 7),
        (8, -1, 1, 7),
        (8, -1, 6, 8),
        (20, -1, 1, 18),
        (20, 3, 1, 17),
        (5, 0, 1, 5),
        (56, -1, 1, 50),
        (100, -1, 1, 91),
    ],
)
def test_one_in_eight_may_be_lost_unless_another_number_is_asked_for(
    organisations: int, dropouts: int, colluders: int, least: int
) -> None:
    assert least_participants(organisations, dropouts, colluders) == least


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Organisations and a server that do not look at the bounds."""
    monkeypatch.setattr("client.session.untolerated", lambda *_: "")
    monkeypatch.setattr("server.secure.untolerated", lambda *_: "")


def including(places: list[int]) -> Change:
    """Ask for the shares of a sum of these, of whom all have sent receipts."""

    def change(arrays: Arrays) -> Arrays:
        true = arrays["secure.included"].tolist()
        receipts = arrays["secure.receipts"][[true.index(place) for place in places]]
        return arrays | {"secure.included": np.array(places), "secure.receipts": receipts}

    return change


def told(federation: Federation, lost: dict[int, set[int]]) -> View:
    """What the server has after it has told each whom it calls lost."""
    everybody = set(range(len(federation.members)))
    for number, gone in lost.items():
        federation.asks[number, "unmask"] = including(federation.places(everybody - gone))
    held = {}

    def keep(arrays: Arrays) -> Arrays:
        held.update({n: member.state for n, member in enumerate(federation.members)})
        return arrays

    federation.changes = {(len(federation.members) - 1, "masked"): keep}
    # What a server that keeps to the rules makes of it is no matter here.
    with suppress(FederationError):
        federation.total(repeat=False)
    view = View.of(federation, federation.seen)
    for number in everybody - lost.keys():
        view.add_held(number, held[number])
        view.add_secrets(number, held[number])
    return view


def known(view: View, kind: int, numbers: range) -> list[int]:
    return [n for n in numbers if view.secret(kind, view.places[n]) is not None]


def residues(view: View, federation: Federation, numbers: list[int]) -> bool:
    """Whether the sum of these alone has come out."""
    total = sum((view.residue(n) for n in numbers), np.zeros(federation.size, dtype=np.uint64))
    wanted = sum(federation.members[n].steps for n in numbers)
    return bool(((total - wanted.view(np.uint64)) & np.uint64(2**40 - 1) == 0).all())


def test_beyond_the_second_bound_organisations_unmask_a_sum_of_two(
    make: MakeFederation, unbounded: None
) -> None:
    """Five, three in a sum, nobody hostile: each calls but two lost, and three are out."""
    federation = make(5, 3, 0)
    tale = tales(5, 3, 3, 2)
    assert tale is not None
    view = told(federation, dict(enumerate(tale)))
    assert known(view, MASK_KEY, range(5)) == [0, 1, 2]
    assert residues(view, federation, [3, 4])


def test_within_it_the_best_tale_takes_out_one_of_five(make: MakeFederation) -> None:
    federation = make(5, 4, 0)
    assert tales(5, 2, 4, 1) is None
    # The next best: as many as can be call the first lost, and the others the second.
    view = told(federation, {0: {1}, 1: {0}, 2: {0}, 3: {0}, 4: {0}})
    assert known(view, MASK_KEY, range(5)) == [0]
    # Without its own vector everybody in the sum is needed for the first.
    assert not residues(view, federation, [1, 2, 3])
    assert residues(view, federation, [1, 2, 3, 4])


def test_beyond_the_first_bound_a_vector_is_laid_bare(
    make: MakeFederation, unbounded: None
) -> None:
    """Five, three in a sum, the last one hostile: two call the first lost, and two do not."""
    federation = make(5, 3)
    view = told(federation, {0: set(), 1: set(), 2: {0}, 3: {0}})
    assert known(view, SELF_MASK, range(1)) == [0]
    assert known(view, MASK_KEY, range(1)) == [0]
    assert residues(view, federation, [0])


def test_within_it_no_tale_brings_both_secrets_of_one(make: MakeFederation) -> None:
    federation = make(5, 4)
    view = told(federation, {0: set(), 1: set(), 2: {0}, 3: {0}})
    honest = range(4)
    assert set(known(view, SELF_MASK, honest)).isdisjoint(known(view, MASK_KEY, honest))
    assert not residues(view, federation, [0])


def masked_with(places: list[int]) -> Change:
    """Ask for a vector that is masked with these alone."""

    def change(arrays: Arrays) -> Arrays:
        rows = [arrays["secure.senders"].tolist().index(place) for place in places]
        names = ("secure.senders", "secure.ciphertexts", "secure.digests")
        return arrays | {name: arrays[name][rows] for name in names}

    return change


def two_camps(
    federation: Federation, first: tuple[int, ...], second: tuple[int, ...]
) -> dict[int, bool]:
    """Who gives shares where two camps were told of other participants; the last one is hostile.

    Args:
        federation: of five.
        first: participants for members 0 and 1; all of their camp and the hostile one are included.
        second: the same for members 2 and 3.
    """
    camps = {0: first, 1: first, 2: second, 3: second}
    for number, participants in camps.items():
        change = masked_with(federation.places(participants))
        federation.asks[number, "masked"] = change
    with suppress(FederationError):
        federation.total(repeat=False)
    sent = {one.number: one for one in federation.seen if one.phase == "masked" and one.reply}
    dealt = next(one for one in federation.seen if one.phase == "shares")
    roster = Roster.from_arrays(context_of(dealt.request, "step"), dealt.request.arrays)
    hostile = federation.members[4]
    given = {}
    for number, participants in camps.items():
        senders = federation.places(participants)
        asked = bytes.fromhex(arrays_sha256(sent[number].request.payload))
        signature = hostile.key.sign(roster.receipt(senders, asked))
        receipts = {n: sent[n].reply["receipt"].tobytes() for n in range(4)}
        receipts[4] = bytes.fromhex(signature)
        given[number] = False
        for size in range(federation.plan.least_participants, len(participants) + 1):
            for included in itertools.combinations(participants, size):
                chosen = federation.places(included)
                by_place = {federation.places([n])[0]: receipts[n] for n in included}
                rows = [np.frombuffer(by_place[place], dtype=np.uint8) for place in chosen]
                arrays = {
                    "secure.senders": np.array(senders),
                    "secure.included": np.array(chosen),
                    "secure.receipts": np.stack(rows),
                }
                request = replace(sent[number].request, arrays=arrays)
                with suppress(RefusedError):
                    federation.members[number].act("unmask", request)
                    given[number] = True
    return given


def test_beyond_the_first_bound_two_camps_give_shares_of_two_sums(
    make: MakeFederation, unbounded: None
) -> None:
    given = two_camps(make(5, 3), (0, 1, 2, 4), (0, 2, 3, 4))
    assert given == {0: True, 1: True, 2: True, 3: True}


def test_within_it_neither_of_two_camps_gives_any(make: MakeFederation) -> None:
    given = two_camps(make(5, 4), (0, 1, 2, 3, 4), (0, 2, 3, 4))
    assert given == {0: False, 1: False, 2: False, 3: False}


def test_within_it_one_camp_of_all_honest_ones_does(make: MakeFederation) -> None:
    given = two_camps(make(5, 4), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4))
    assert given == {0: True, 1: True, 2: True, 3: True}
