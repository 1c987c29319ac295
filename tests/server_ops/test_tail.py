"""Following a run's progress file, and what a person sees of it."""

from pathlib import Path

import pytest

from server.ops.tail import FILE, Tail, last_event, sentence

AT = "2026-05-01T12:00:00+00:00"


def test_events_are_read_once_each_as_the_file_grows(tmp_path: Path) -> None:
    tail = Tail(tmp_path)
    assert tail.read() == []
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "planned"}\n')
        file.flush()
        assert tail.read() == [{"event": "planned"}]
        assert tail.read() == []
        file.write('{"event": "round"}\n{"event": "fin')
        file.flush()
        assert tail.read() == [{"event": "round"}]
        file.write('ished"}\n')
        file.flush()
        assert tail.read() == [{"event": "finished"}]


def test_a_line_that_a_crash_cut_short_does_not_hide_those_after_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"event": "rou\n[]\n{"event": "finished"}\n')
    assert Tail(tmp_path).read() == [{"event": "finished"}]
    assert last_event(tmp_path) == {"event": "finished"}


def test_a_resumed_run_is_followed_from_where_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"event": "planned"}\n')
    tail = Tail(tmp_path, from_end=True)
    assert tail.read() == []
    with (tmp_path / FILE).open("a") as file:
        file.write('{"event": "round"}\n')
    assert tail.read() == [{"event": "round"}]


def test_a_run_without_progress_has_no_last_event(tmp_path: Path) -> None:
    assert last_event(tmp_path) is None


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"event": "round", "at": AT, "round": 3, "rounds": 25, "replies": 8, "seconds": 4.2341},
            "round 3 of 25: replies 8, seconds 4.234",
        ),
        ({"event": "planned", "at": AT, "epsilon": None}, "planned: epsilon null"),
        ({"event": "planned", "at": AT, "plan": "ab" * 32}, "planned: plan abababababab"),
        ({"event": "finished", "at": AT}, "finished"),
    ],
)
def test_an_event_is_one_line(event: dict[str, object], words: str) -> None:
    clock, _, rest = sentence(event).partition("  ")
    assert rest == words
    assert len(clock) == len("12:00:00")


def test_text_from_an_organisation_cannot_steer_the_screen() -> None:
    line = sentence({"event": "refused", "at": AT, "reason": "\x1b[2J\x1b[31mno\nyes\r\x07\u202e"})
    assert line.isprintable()
    assert "no yes" in line
