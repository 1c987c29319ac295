"""The audit report: right figures, warnings first, text escaped, nothing loaded from elsewhere."""

import dataclasses
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from scipy.optimize import brentq
from scipy.stats import norm
from typer.testing import CliRunner

from audit.bundle import read_evidence, write_bundle
from audit.report import MOST_LINES, write_report
from audit.report_words import left_text, one_in_text, percent_text, time_text
from audit.views_cli import report_command
from shared.chain import Record, seal, sha256_text
from shared.entries import Refusal
from shared.errors import PrivacyError
from shared.policy import Policy
from shared.words import bytes_text, delta_text, epsilon_text, factor_text, plural

HOSTILE = '<script src="//evil.example">alert(1)</script>'
VOID = {"meta", "br"}


class _Page(HTMLParser):
    """Tags in order with their attributes, text without tags and styles, and wrong nesting."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        words = " ".join(" ".join(self._text).replace("\N{NBSP}", " ").split())
        return re.sub(r" ([,.:;)])", r"\1", words).replace("\N{MULTIPLICATION SIGN}", "x")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self._open):
            self._text.append(data)


def _exact_epsilon(*multipliers: float) -> float:
    """Of Gaussian releases over all users at delta 5e-4 (Balle and Wang 2018, theorem 8)."""
    mu = sum(sigma**-2 for sigma in multipliers) ** 0.5

    def excess(epsilon: float) -> float:
        above = norm.cdf(mu / 2 - epsilon / mu)
        return float(above - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - 5e-4)

    return float(brentq(excess, 0.0, 60.0))


def _written(folder: Path) -> str:
    out = folder.parent / "page.html"
    write_report(read_evidence(folder), out)
    return out.read_text(encoding="utf-8")


def _text(folder: Path) -> str:
    return _Page(_written(folder)).text


def _other_house(house: Any, folder: Path, **changes: Any) -> Any:
    """Another organisation with the same keys."""
    return dataclasses.replace(house, folder=folder, anchor=None, seen=[], **changes)


def _with_rules(policy: Policy, **sections: dict[str, Any]) -> Policy:
    return policy.model_copy(
        update={
            name: getattr(policy, name).model_copy(update=rules) for name, rules in sections.items()
        }
    )


def test_the_figures_of_a_run_are_on_the_page(house: Any) -> None:
    text = _text(house.folder)
    budget = house.policy.budget.epsilon
    one = [house.plan.mechanism(name).noise_multiplier for name in ("popularity", "cooccurrence")]
    run = [*one, *[house.plan.step.noise_multiplier] * 3]
    spent, twice = _exact_epsilon(*run), _exact_epsilon(*run, *run)
    assert "org-1 18 records, written from" in text
    assert "Verified Every record is in place" in text
    assert (
        f"Spent {epsilon_text(spent)} epsilon; smaller is safer Budget {epsilon_text(budget)} "
        in text
    )
    assert f"Left {left_text(budget - spent)} budget less what was spent" in text
    assert "Delta 5 x 10⁻⁴ 1 in 2,000" in text
    assert f"Another run like the last one would bring epsilon to {epsilon_text(twice)}" in text
    assert f"by a factor of at most {factor_text(spent)}" in text
    assert "One user, with the whole history" in text
    assert "adjacency: add or remove one user" in text
    assert "Over the 118 people declared that makes 0.06 of one" in text


def test_what_identifies_the_ledger_is_on_the_page(house: Any) -> None:
    text, stored = _text(house.folder), house.stored()
    hashes = [stored[0].sha256, stored[-1].sha256, house.policy.sha256]
    assert [h for h in (*hashes, house.key.public, house.server.public) if h not in text] == []


def test_releases_are_grouped_by_run_and_mechanism_with_their_own_epsilon(house: Any) -> None:
    text = _text(house.folder)
    for name, count, size in (("popularity", 1, "12 B"), ("step", 3, "36 B")):
        sigma = house.plan.mechanism(name).noise_multiplier
        shown = re.search(rf"{sigma:.4g} 1 {count} ([\d.]+) {size}", text)
        assert shown, name
        assert float(shown[1]) == pytest.approx(_exact_epsilon(*[sigma] * count), abs=1.5e-3)


def test_what_was_paid_for_and_not_sent_is_told(house: Any) -> None:
    other = _other_house(house, house.folder.parent / "crashed")
    with other.open() as ledger:
        ledger.reserve("r/0/popularity", other.intent("popularity"), other.plan)
    text = _text(other.folder)
    assert "1 paid for, not sent" in text
    assert "spent, nothing left: interrupted" in text


def test_refusals_are_listed_with_their_rule(house: Any) -> None:
    assert "plan the plan has no further step" in _text(house.folder)


def test_a_flood_of_refusals_shows_the_newest(house: Any) -> None:
    with house.open() as ledger:
        for number in range(MOST_LINES + 5):
            ledger.record_refusal(f"q/{number}", Refusal("plan", f"no plan of {number}."))
    text = _text(house.folder)
    assert f"no plan of {MOST_LINES + 4}." in text
    assert "no plan of 2." not in text
    assert f"{MOST_LINES + 6} refusals, the newest {MOST_LINES} first" in text


def test_a_changed_policy_is_told_with_what_it_changed(house: Any) -> None:
    with house.open() as ledger:
        ledger.amend(_with_rules(house.policy, budget={"epsilon": 10.0}))
    text = _text(house.folder)
    assert f"budget.epsilon is 10.0, was {house.policy.budget.epsilon}" in text
    assert "Budget 10 most that may ever be spent" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noise": "none", "noise_multiplier": 0.0}, "No noise was added"),
        ({"secret_randomness": False}, "Noise or sampling came from a seed"),
    ],
)
def test_a_ledger_that_is_not_private_says_so_before_all_else(
    house: Any, changes: dict[str, Any], reason: str
) -> None:
    house.append("intent", "r/8/step", house.intent("step", 8, **changes))
    page = _Page(_written(house.folder))
    assert page.text.index("NOT PRIVATE") < page.text.index("Budget")
    main = page.text[page.text.index("NOT PRIVATE") :]
    assert main.startswith("NOT PRIVATE What left this organisation carries no guarantee.")
    assert reason in main
    assert "by a factor of at most" not in main
    assert "Without a guarantee there is no epsilon" in main


def test_an_honest_experiment_without_noise_is_intact_and_not_private(house: Any) -> None:
    policy = _with_rules(house.policy, budget={"epsilon": None}, mechanism={"noise": "none"})
    silent = dataclasses.replace(house.plan.popularity, noise_multiplier=0.0)
    plan = dataclasses.replace(
        house.plan, popularity=silent, noise=type(house.plan.noise)("none"), epsilon=None
    )
    other = _other_house(house, house.folder.parent / "open", policy=policy, plan=plan)
    with other.open() as ledger:
        ledger.reserve("r/0/popularity", other.intent("popularity"), other.plan)
    text = _text(other.folder)
    assert text.index("NOT PRIVATE") < text.index("The record itself is intact")
    assert "Verified" not in text
    assert " no bound 0 B" in text


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE records SET signature = 'ab' WHERE sequence = 5", "Record 5: its signature"),
        ("UPDATE records SET record = 'no' WHERE sequence = 7", "Record 7: not a ledger record"),
        ("DELETE FROM records WHERE sequence = 9", "Record 9: it is numbered 10"),
        ("DELETE FROM records WHERE sequence > 12", "its end was deleted or rolled back"),
        ("DELETE FROM records", "The ledger as a whole: the ledger is empty"),
        ("UPDATE records SET record = 'no' WHERE sequence = 1", "Record 1: not a ledger record"),
    ],
)
def test_a_tampered_ledger_shows_its_faults_first(
    house: Any, statement: str, expected: str
) -> None:
    house.tamper(statement)
    text = _text(house.folder)
    assert "Verified" not in text
    assert expected in text
    assert text.index("NOT VERIFIED") < text.index("The ledger itself")
    assert "Rely on nothing below until each is explained" in text


def test_a_lowered_noise_with_honest_hashes_is_a_fault_on_the_page(house: Any) -> None:
    number = house.number_of("intent", "r/1/step")
    record = house.record(number)
    doctored = dataclasses.replace(record, body={**record.body, "noise_multiplier": "99.5"})
    house.tamper(
        "UPDATE records SET record = ?, sha256 = ? WHERE sequence = ?",
        (doctored.text(), sha256_text(doctored.text()), number),
    )
    assert f"Record {number}: its signature is not by the organisation's key" in _text(house.folder)


def test_an_intent_that_cannot_be_counted_leaves_no_epsilon_on_the_page(house: Any) -> None:
    house.append("intent", "r/8/step", house.intent("step", 8, noise_multiplier=float("nan")))
    text = _text(house.folder)
    assert "epsilon cannot be stated" in text
    assert "Epsilon cannot be stated, so nothing is promised." in text
    assert "Spent" not in text


def test_an_overspent_budget_is_marked(house: Any) -> None:
    house.append("intent", "r/8/popularity", house.intent("popularity", 8, run="q"))
    page = _Page(_written(house.folder))
    assert "the budget was passed" in page.text
    assert "brings epsilon to" in page.text
    assert any(attrs.get("class") == "over" for _, attrs in page.tags)


def test_each_federation_has_a_gauge_where_budgets_are_apart(house: Any) -> None:
    policy = _with_rules(
        house.policy,
        budget={"shared_by_federations": False},
        federations={"allowed": ("ab" * 32, "cd" * 32)},
    )
    other = _other_house(house, house.folder.parent / "two", policy=policy)
    with other.open() as ledger:
        for name in policy.federations.allowed:
            intent = other.intent("popularity", run=name[:4], federation=name)
            ledger.reserve(f"{name[:4]}/0", intent, other.plan)
    text = _text(other.folder)
    assert "Budget of the federation of server abababababab" in text
    assert "Budget of the federation of server cdcdcdcdcdcd" in text
    both = text[text.index("All federations together") :]
    sigma = house.plan.popularity.noise_multiplier
    assert f"Spent {epsilon_text(_exact_epsilon(sigma))} epsilon" in text
    assert f"faces epsilon {epsilon_text(_exact_epsilon(sigma, sigma))} at delta" in both


def test_a_fresh_ledger_has_a_page(house: Any) -> None:
    other = _other_house(house, house.folder.parent / "fresh")
    with other.open():
        pass
    text = _text(other.folder)
    assert "Spent 0 epsilon" in text
    assert "Nothing was spent yet." in text
    assert "What was refused Nothing." in text


def test_a_bundle_gives_the_same_page_as_its_ledger(house: Any, tmp_path: Path) -> None:
    evidence = read_evidence(house.folder)
    write_bundle(evidence, tmp_path / "bundle.jsonl")
    for name, source in (("a", house.folder), ("b", tmp_path / "bundle.jsonl")):
        write_report(read_evidence(source), tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_text_from_the_ledger_is_escaped_everywhere(house: Any) -> None:
    policy = _with_rules(house.policy, organisation={"name": HOSTILE})
    other = _other_house(house, house.folder.parent / "hostile", policy=policy)
    with other.open() as ledger:
        ledger.reserve("r", other.intent("popularity", run=HOSTILE), other.plan)
        ledger.record_refusal("q", Refusal(HOSTILE, HOSTILE))
    other.append("anchor", None, {"server_key": HOSTILE})
    house_page = _Page(_written(other.folder))
    assert "script" not in {tag for tag, _ in house_page.tags}
    assert house_page.text.count("<script src=") >= 5


def test_an_invalid_time_is_shown_as_it_stands(house: Any) -> None:
    last = house.stored()[-1]
    record = Record(19, last.sha256, HOSTILE, "refusal", "q", {"rule": "a", "sentence": "b"})
    house.insert(19, "refusal", "q", seal(record, house.key))
    page = _Page(_written(house.folder))
    assert "is none in UTC" in page.text
    assert "script" not in {tag for tag, _ in page.tags}


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(house: Any) -> None:
    page = _written(house.folder)
    tags = _Page(page).tags
    assert not {"script", "link", "img", "iframe", "object", "base"} & {tag for tag, _ in tags}
    links = [v for _, attrs in tags for k, v in attrs.items() if k in ("src", "href")]
    assert [link for link in links if not str(link).startswith("#")] == []
    assert not [k for _, attrs in tags for k in attrs if k.startswith("on")]
    assert "//" not in page
    assert re.findall(r"url\((?!#)|@import", page) == []


def test_the_page_is_well_formed_and_its_chart_takes_the_pages_colours(house: Any) -> None:
    page = _written(house.folder)
    parsed = _Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert parsed.wrong == []
    assert [tag for tag, _ in parsed.tags].count("svg") == 1
    chart = page[page.index("<svg") : page.index("</svg>")]
    assert "var(--good)" in chart
    assert re.findall(r": #[0-9a-f]{6}", chart) == []


def test_the_same_ledger_gives_the_same_page(house: Any) -> None:
    assert _written(house.folder) == _written(house.folder)


def test_the_command_writes_the_page_and_fails_where_there_are_faults(house: Any) -> None:
    app = typer.Typer()
    app.command()(report_command)
    out = house.folder.parent / "dpo.html"
    done = CliRunner().invoke(app, [str(house.folder), "--out", str(out)])
    assert (done.exit_code, out.exists()) == (0, True)
    out.unlink()
    house.tamper("DELETE FROM records WHERE sequence = 9")
    done = CliRunner().invoke(app, [str(house.folder), "--out", str(out)])
    assert (done.exit_code, out.exists()) == (1, True)
    assert "NOT VERIFIED" in done.output


def test_a_source_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(report_command)
    done = CliRunner().invoke(app, [str(tmp_path / "none"), "--out", str(tmp_path / "x.html")])
    assert isinstance(done.exception, PrivacyError)
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (epsilon_text, 7.9991, "8"),
        (epsilon_text, 0.0001, "0.001"),
        (epsilon_text, 100.0, "100"),
        (epsilon_text, float("inf"), "no bound"),
        (left_text, 0.00199, "0.001"),
        (left_text, -1.0, "0"),
        (percent_text, 0.123401, "12.35%"),
        (percent_text, 0.999999, "100%"),
        (delta_text, 5.341e-4, "5.4 x 10⁻⁴"),
        (delta_text, 9.99e-4, "1 x 10⁻³"),
        (one_in_text, 5.34e-4, "1 in 1,872"),
        (factor_text, 0.1, "1.11"),
        (factor_text, 14.0, "10⁷"),
        (bytes_text, 13_456, "13.5 kB"),
        (time_text, "2026-11-25T03:57:10.123+00:00", "25 Nov 2026, 03:57 UTC"),
    ],
)
def test_what_bounds_a_risk_is_never_rounded_in_its_favour(
    write: Callable[[Any], str], value: Any, text: str
) -> None:
    plain = write(value).replace("\N{NBSP}", " ").replace("\N{MULTIPLICATION SIGN}", "x")
    assert plain == text


def test_counts_agree_with_their_noun() -> None:
    assert [plural(1, "fault"), plural(2, "fault"), plural(2, "person", "people")] == [
        "1 fault",
        "2 faults",
        "2 people",
    ]
