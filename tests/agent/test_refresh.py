"""Data that was read anew is used from the next join on, and never in the middle of a run."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.directory import population_of
from shared import messages
from shared.errors import RefusedError, TacitError
from tests.agent.house import ROWS, House, Server, histories, reply_of

MORE = (*ROWS, (1, 2, 3, 4), (5, 6, 7, 8))


def populations(house: House) -> list[str]:
    return [intent.population for intent in house.intents()]


def fingerprint(house: House, rows: Any) -> str:
    return population_of(house.directory, histories(rows))


def test_refreshed_data_is_used_from_the_next_join_on(way: Any, server: Server) -> None:
    house = way.house
    way.ask(messages.JOIN, server.request(messages.JOIN))
    house.write_rows(MORE)
    way.ask(messages.JOIN, server.request(messages.JOIN, run="next"))
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY, run="next"))
    assert populations(house) == [fingerprint(house, MORE)]


def test_refreshed_data_is_not_used_within_a_run(way: Any, server: Server) -> None:
    house = way.house
    way.ask(messages.JOIN, server.request(messages.JOIN))
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    house.write_rows(MORE)
    way.ask(messages.COOCCURRENCE, server.request(messages.COOCCURRENCE))
    assert populations(house) == [fingerprint(house, ROWS)] * 2


def test_a_join_in_the_middle_of_a_run_does_not_bring_it_other_data(
    way: Any, server: Server
) -> None:
    house = way.house
    way.ask(messages.JOIN, server.request(messages.JOIN))
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    house.write_rows(MORE)
    way.ask(messages.JOIN, server.request(messages.JOIN))
    way.ask(messages.COOCCURRENCE, server.request(messages.COOCCURRENCE))
    assert populations(house) == [fingerprint(house, ROWS)] * 2


def test_a_join_of_another_run_brings_the_new_data(way: Any, server: Server) -> None:
    """To every run from there on: each release names the population that it was made of."""
    house = way.house
    way.ask(messages.JOIN, server.request(messages.JOIN))
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    house.write_rows(MORE)
    way.ask(messages.JOIN, server.request(messages.JOIN, run="other"))
    way.ask(messages.COOCCURRENCE, server.request(messages.COOCCURRENCE))
    assert populations(house) == [fingerprint(house, ROWS), fingerprint(house, MORE)]


def test_a_join_that_is_refused_brings_no_other_data(
    way: Any, server: Server, stranger: Server
) -> None:
    house = way.house
    house.write_rows(MORE)
    with pytest.raises(RefusedError):
        way.ask(messages.JOIN, stranger.request(messages.JOIN))
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    assert populations(house) == [fingerprint(house, ROWS)]


def test_a_join_with_bad_settings_after_a_refresh_is_refused_on_record(
    way: Any, server: Server
) -> None:
    way.house.write_rows(MORE)
    with pytest.raises(RefusedError, match="settings"):
        way.ask(messages.JOIN, server.request(messages.JOIN, settings="{}"))
    assert way.house.rules() == ["request"]


def test_data_that_cannot_be_read_is_not_passed_over_at_the_second_join(
    house: House, server: Server, open_way: Callable[..., Any]
) -> None:
    way = open_way(house, "here")
    (house.directory / "histories.duckdb").write_bytes(b"half of a copy")
    for _ in range(2):
        with pytest.raises(TacitError):
            way.ask(messages.JOIN, server.request(messages.JOIN))


def test_data_that_could_not_be_read_once_is_used_when_it_is_whole(
    house: House, server: Server, open_way: Callable[..., Any]
) -> None:
    way = open_way(house, "here")
    (house.directory / "histories.duckdb").write_bytes(b"half of a copy")
    with pytest.raises(TacitError):
        way.ask(messages.JOIN, server.request(messages.JOIN))
    house.write_rows(MORE)
    way.ask(messages.JOIN, server.request(messages.JOIN))
    way.ask(messages.POPULARITY, server.request(messages.POPULARITY))
    assert populations(house) == [fingerprint(house, MORE)]


def test_what_was_stored_before_a_refresh_is_still_the_answer(way: Any, server: Server) -> None:
    request = server.request(messages.POPULARITY)
    first = reply_of(way.ask(messages.POPULARITY, request))
    way.house.write_rows(MORE)
    way.ask(messages.JOIN, server.request(messages.JOIN, run="next"))
    again = reply_of(way.ask(messages.POPULARITY, request))
    assert np.array_equal(first.arrays["values"], again.arrays["values"])
    assert len(way.house.intents()) == 1
