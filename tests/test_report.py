"""The run report: complete, self-contained, escaped, loud where there is no guarantee."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shared.config import Config
from shared.errors import ConfigError, RunError
from shared.sections import to_toml
from shared.words import bytes_text, delta_text, epsilon_text
from simulations.records import (
    AggregationName,
    ComparisonRecord,
    DatasetRecord,
    EvaluationRecord,
    ExampleRecord,
    GuaranteeRecord,
    NoiseName,
    OrganisationRecord,
    Recommended,
    Record,
    ReleaseSummary,
    ResultRecord,
    RoundRecord,
    TimingRecord,
    WeightRecord,
    append_record,
)
from simulations.report import MOST_BARS, write_report
from simulations.report_words import seconds_text

HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "br"}
PLAIN = {
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{MINUS SIGN}": "-",
    "\N{GREEK SMALL LETTER SIGMA}": "s",
}


def _dataset() -> DatasetRecord:
    return DatasetRecord(
        name="films",
        users=943,
        items=1682,
        interactions=100_000,
        organisations=8,
        notices=("12 rows left out",),
    )


def _guarantee(
    noise: NoiseName = "own", private: bool = True, aggregation: AggregationName = "plain"
) -> GuaranteeRecord:
    secure = aggregation == "secure"
    return GuaranteeRecord(
        unit="user",
        adjacency="add or remove one user",
        epsilon=None if noise == "none" else 8.0,
        delta=5.34e-4,
        noise=noise,
        aggregation=aggregation,
        least_participants=7 if secure else 1,
        colluders=1 if secure else 0,
        private=private,
        sigma_popularity=1.62,
        sigma_cooccurrence=0.81,
        sigma_step=14.2,
        sampling_rate=1.0,
        steps=20,
        accountant="PLD",
        epsilon_pld=7.9123,
        epsilon_prv=7.9456,
        epsilon_rdp=9.1234,
        epsilon_alone=27.3422 if noise == "shared" else 7.9123,
    )


def _result(method: str, label: str, ndcg: float, noise: NoiseName = "own") -> ResultRecord:
    private = method in ("statistics", "federation") and noise != "none"
    return ResultRecord(
        method=method,
        label=label,
        epsilon=8.0 if private else None,
        noise=noise if private else "none",
        hr=2 * ndcg,
        hr_se=0.011,
        ndcg=ndcg,
        ndcg_se=0.006,
        cold_hr=0.0123 if private else None,
        cold_ndcg=0.0045 if private else None,
        cold_users=143 if private else None,
        private=private,
    )


def _organisation(name: str, size_bytes: int = 13_456) -> OrganisationRecord:
    return OrganisationRecord(
        name=name,
        declared_users=118,
        epsilon_spent=6.0,
        epsilon_alone=6.0,
        epsilon_budget=8.0,
        delta=5.34e-4,
        releases=(
            ReleaseSummary(what="popularity", times=1, bytes=size_bytes, sigma=1.62),
            ReleaseSummary(what="step", times=20, bytes=2_500_000, sigma=14.2),
        ),
    )


def _example(user: str, title: str = "Fargo (1996)") -> ExampleRecord:
    return ExampleRecord(
        organisation="org-1",
        user=user,
        recent=(title,),
        recommended=(Recommended(title="Heat (1995)", score=5.12),),
    )


def _all_records() -> list[Record]:
    rounds: list[Record] = [
        RoundRecord(
            run="private",
            round=number,
            rounds=2,
            epsilon=7.0 + number / 2,
            seconds=10.0 + number,
            overhead_ms=80.5,
            update_norm=0.25,
            replies=8,
            stages={"backward": 6.9, "forward": 2.3, "ledger": 0.023},
        )
        for number in (1, 2)
    ]
    return [
        _dataset(),
        _guarantee(),
        *rounds,
        EvaluationRecord(run="private", round=2, part="validation", hr=0.15, ndcg=0.0789),
        EvaluationRecord(run="noise_free", round=2, part="validation", hr=0.18, ndcg=0.0987),
        _result("popularity", "Popularity", 0.044),
        _result("statistics", "Statistics alone", 0.068),
        _result("federation", "Federation", 0.073),
        _result("federation", "Federation", 0.102, noise="none"),
        ComparisonRecord(
            a="federation (own)",
            b="statistics (own)",
            metric="ndcg",
            mean=0.00512,
            low=-0.00111,
            high=0.00921,
        ),
        WeightRecord(run="private", part="texts", weight=0.8, most=0.8, lift=0.394),
        WeightRecord(run="private", part="user_model", weight=0.1, most=0.4, lift=-0.0123),
        WeightRecord(run="noise_free", part="texts", weight=0.8, most=0.8, lift=None),
        _organisation("org-1"),
        _organisation("org-2"),
        *[_example(str(user)) for user in range(196, 200)],
        TimingRecord(stage="Item vectors", seconds=23.4),
    ]


def _page(folder: Path, records: list[Record]) -> str:
    (folder / "config.toml").write_text(to_toml(Config()))
    (folder / "metrics.jsonl").touch()
    for record in records:
        append_record(folder / "metrics.jsonl", record)
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def _text(page: str, with_charts: bool = False) -> str:
    """What a reader sees, with plain signs and single spaces: no style, no tags."""
    unseen = "style|head" if with_charts else "style|head|svg"
    page = re.sub(rf"<({unseen})\b.*?</\1>", " ", page, flags=re.DOTALL)
    text = unescape(" ".join(re.sub(r"<[^>]+>", " ", page).split()))
    for sign, plain in PLAIN.items():
        text = text.replace(sign, plain)
    return text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run with everything in it."""
    return _page(tmp_path_factory.mktemp("whole"), _all_records())


class _Balance(HTMLParser):
    """Collects tags that are closed in the wrong place, and the names of headings."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.wrong: list[str] = []
        self.tables = self.captions = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.stack.append(tag)
        self.tables += tag == "table"
        self.captions += tag == "caption"

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(tag)


@pytest.mark.parametrize(
    "expected",
    [
        "8 organisations with 943 users of films (1,682 items, 100,000 interactions)",
        "ε = 8, δ = 5.4 x 10⁻⁴; unit: user; adjacency: add or remove one user",
        "12 rows left out",
        "PLD 7.913, PRV 7.946, RDP 9.124",
        "popularity 1.62, co-occurrence 0.81, adapter step 14.2",
        "Federation private: ε = 8 0.146 ± 0.011 0.073 ± 0.006 143 0.012 0.004",
        "Popularity none: histories pooled 0.088 ± 0.011 0.044 ± 0.006",
        "Federation, no noise none: no noise 0.204 ± 0.011 0.102 ± 0.006",
        "+0.0051 -0.0011 to +0.0092 may be chance",
        "exact, seen by the researcher only, and outside the guarantee",
        "This run 2 of 2 11.5 s 80.5 ms 0.25",
        "org-2 6 of 8 5.4 x 10⁻⁴ 118",
        "13.5 kB 1x, s 1.62 2.5 MB 20x, s 14.2 2.5 MB",
        "User 196 of org-1",
        "5.12 Heat (1995)",
        "Item vectors 23.4 s",
        "Backward passes, gradients by user 6.90 s 60.0%",
        "Ledgers, synced to disk 23.0 ms 0.2%",
        "Everything else 2.28 s 19.8%",
        "clipping_norm = 1.0",
    ],
)
def test_the_figures_of_a_whole_run_are_on_the_page(whole: str, expected: str) -> None:
    assert expected in _text(whole)


def test_four_charts_are_drawn_in_two_shapes_each(whole: str) -> None:
    assert whole.count('<svg role="img"') == 8
    assert whole.count('<div class="wide">') == whole.count('<div class="narrow">') == 4


def test_the_page_is_well_formed_and_every_table_has_a_caption(whole: str) -> None:
    balance = _Balance()
    balance.feed(whole)
    assert whole.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert (balance.wrong, balance.stack) == ([], [])
    assert balance.tables == balance.captions == 8


def test_nothing_is_loaded_from_elsewhere(whole: str) -> None:
    assert "http://" not in whole
    assert "https://" not in whole
    assert "xlink:" not in whole
    assert "<script" not in whole
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', whole) == []
    assert re.findall(r"url\((?!#)[^)]*\)|@import", whole) == []


def test_colours_of_charts_come_from_the_page(whole: str) -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", whole, flags=re.DOTALL))
    assert "var(--private)" in charts
    assert re.findall(r"#[0-9a-f]{6}\b|font-family", charts) == []


def test_an_identical_run_gives_an_identical_page(tmp_path: Path) -> None:
    first = _page(tmp_path, _all_records())
    assert write_report(tmp_path).read_text(encoding="utf-8") == first


def test_text_from_the_data_is_escaped_everywhere(tmp_path: Path) -> None:
    page = _page(
        tmp_path,
        [
            _dataset().model_copy(update={"name": HOSTILE, "notices": (HOSTILE,)}),
            _guarantee(),
            _result("popularity", HOSTILE, 0.1),
            _organisation(HOSTILE),
            _example(HOSTILE, HOSTILE),
            TimingRecord(stage=HOSTILE, seconds=1.0),
        ],
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8


def test_mathematics_in_a_label_is_left_as_text(tmp_path: Path) -> None:
    page = _page(tmp_path, [_guarantee(), _result("popularity", "Costs $5$ {x", 0.1)])
    in_charts = re.findall(r"<text [^>]*>Costs \$5\$ \{x</text>", page)
    assert len(in_charts) == 3


def test_at_most_three_users_are_shown(whole: str) -> None:
    assert whole.count("<article>") == 3


def test_a_private_run_has_no_banner(whole: str) -> None:
    assert 'role="alert"' not in whole


@pytest.mark.parametrize(
    ("noise", "private", "heading", "sentence"),
    [
        ("none", False, "Not private", "added no noise"),
        ("own", False, "Not private", "can be repeated"),
        ("shared", False, "Not private", "can be repeated"),
        ("shared", True, "Simulated trusted sum", "secure aggregation"),
    ],
)
def test_a_run_without_a_full_guarantee_has_a_banner(
    tmp_path: Path, noise: NoiseName, private: bool, heading: str, sentence: str
) -> None:
    page = _page(tmp_path, [_dataset(), _guarantee(noise, private)])
    banner = _text(page[page.index('role="alert"') - 30 : page.index('<dl class="tiles">')])
    assert heading in banner
    assert sentence in banner


SECURE = [
    "The sum of what they sent, of which the server saw nothing else, is differentially private",
    "ε = 8, δ = 5.4 x 10⁻⁴; unit: user",
    "Joint epsilon 8, against the server with up to 1 organisation on its side",
    "Epsilon alone 27.343, against the server with all other organisations on its side",
    "Sums masked: the server saw only sums of at least 7 organisations, never what one of them",
    "Noise once, for the sum: the shares of any 6 organisations are all of it",
    "More than 1 organisation on the server's side: ε rises with each further one, to 27.343",
    "A server that invents organisations: an agent counts only those whose keys its policy names",
    "one process plays the server and all organisations",
    "Federation private: ε = 8, one noise for secure sums",
    "noised and masked, so that only their sum can be read, and keys and shares",
    "6 of 8; 21.001 with all others on the server's side",
    "Keys and shares",
    "9.6 kB 81x 2.5 MB",
]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run with secure sums."""
    found = _result("federation", "Federation", 0.073, "shared")
    house = _organisation("org-1")
    kept = ReleaseSummary(what="protocol", times=81, bytes=9_600, sigma=None)
    house = house.model_copy(update={"epsilon_alone": 21.0003, "releases": (*house.releases, kept)})
    records: list[Record] = [
        _dataset(),
        _guarantee("shared", aggregation="secure"),
        found.model_copy(update={"aggregation": "secure"}),
        house,
    ]
    return _page(tmp_path_factory.mktemp("secure"), records)


@pytest.mark.parametrize("sentence", SECURE)
def test_a_run_with_secure_sums_says_what_they_protect_against(secure: str, sentence: str) -> None:
    assert sentence in _text(secure)


def test_a_run_with_secure_sums_has_no_banner_and_no_word_of_a_simulated_sum(secure: str) -> None:
    assert 'role="alert"' not in secure
    assert "simulated" not in _text(secure[: secure.index("<details>")])


def test_a_run_with_plain_sums_promises_nothing_of_secure_ones(tmp_path: Path, whole: str) -> None:
    simulated = _text(_page(tmp_path, [_guarantee("shared")]))
    assert "Epsilon alone 27.343, against whoever sees the part of one organisation" in simulated
    assert "Sums added up by this one process, which stands in for somebody" in simulated
    for text in (simulated, _text(whole)):
        assert "masked" not in text
        assert "invents organisations" not in text
        assert "on the server's side" not in text
    assert "the server saw what each organisation sent, with all of its noise" in _text(whole)
    assert "Epsilon alone" not in _text(whole)


def test_own_noise_in_secure_sums_is_not_weakened_by_those_who_help_the_server(
    tmp_path: Path,
) -> None:
    text = _text(_page(tmp_path, [_guarantee("own", aggregation="secure")]))
    assert "Noise every organisation adds all of its own" in text
    assert "the server saw only sums of at least 7 organisations" in text
    assert "Epsilon alone" not in text
    assert "ε rises" not in text
    assert "invents organisations" in text


def test_a_run_that_is_not_private_claims_no_epsilon_in_its_heading(tmp_path: Path) -> None:
    page = _page(tmp_path, [_dataset(), _guarantee("own", private=False)])
    heading = _text(page[: page.index('<section aria-labelledby="guarantee">')])
    assert "carries no privacy guarantee" in heading
    assert "ε" not in heading
    assert "Epsilon" not in heading


def test_a_run_that_stopped_before_its_guarantee_says_so(tmp_path: Path) -> None:
    assert "No guarantee on record" in _text(_page(tmp_path, [_dataset()]))


def test_a_run_without_records_still_has_a_report(tmp_path: Path) -> None:
    page = _page(tmp_path, [])
    assert page.count("<section") == 1
    assert "<svg" not in page
    assert "The whole configuration" in page


@pytest.mark.parametrize(
    ("kind", "gone"),
    [
        ("dataset", "Noticed while reading"),
        ("guarantee", "Accountants"),
        ("round", "Last update norm"),
        ("evaluation", "Validation NDCG"),
        ("result", "Popularity none"),
        ("comparison", "paired bootstrap"),
        ("weight", "User model private 0.10 0.40 pairs -1% for a deviation"),
        ("organisation", "Declared users"),
        ("example", "what is recommended"),
        ("round", "Inside a round"),
        ("timing", "Wall-clock time of every stage"),
    ],
)
def test_what_has_no_data_is_left_out(tmp_path: Path, whole: str, kind: str, gone: str) -> None:
    page = _page(tmp_path, [record for record in _all_records() if record.event != kind])
    shown = page[: page.index("<details>")]
    assert gone in _text(whole, with_charts=True)
    assert gone not in _text(shown, with_charts=True)
    assert "None" not in _text(shown)


def test_rounds_without_stages_say_why_there_are_none(tmp_path: Path) -> None:
    bare = [
        record.model_copy(update={"stages": {}}) if isinstance(record, RoundRecord) else record
        for record in _all_records()
    ]
    page = _text(_page(tmp_path, bare), with_charts=True)
    assert "known only where organisations and server share a process" in page
    assert "Inside a round" not in page


def test_the_last_of_repeated_records_counts(tmp_path: Path) -> None:
    again = _result("federation", "Federation", 0.0801)
    page = _text(_page(tmp_path, [*_all_records(), *_all_records(), again]))
    assert "0.080 ± 0.006" in page
    assert "0.073 ± 0.006" not in page
    assert page.count("This run 2 of 2") == 1
    assert page.count("org-2 6 of 8") == 1


def test_an_overspent_budget_is_marked(tmp_path: Path) -> None:
    house = _organisation("org-1").model_copy(update={"epsilon_spent": 9.0})
    page = _page(tmp_path, [_guarantee(), house])
    assert 'class="gauge over" role="img" aria-label="112.5% spent"' in page
    assert "width: 100.0%" in page


def test_a_spending_without_bound_is_said_in_words(tmp_path: Path) -> None:
    house = _organisation("org-1").model_copy(update={"epsilon_spent": None})
    page = _page(tmp_path, [_guarantee("none", private=False), house])
    assert "org-1 no bound of 8" in _text(page)
    assert 'class="gauge' not in page


def test_a_chart_of_many_organisations_shows_those_that_sent_most(tmp_path: Path) -> None:
    houses: list[Record] = [_organisation(f"house {n:03d}", 1000 * n) for n in range(MOST_BARS + 5)]
    page = _page(tmp_path, [_guarantee(), *houses])
    chart = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "house 044" in chart
    assert "house 004" not in chart
    assert "house 004" in _text(page)


def test_the_cutoff_is_that_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[evaluation]\ncutoff = 7\n")
    append_record(tmp_path / "metrics.jsonl", _result("federation", "Federation", 0.1))
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "NDCG@7" in page
    assert "@10" not in page


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.toml: no such file"):
        write_report(tmp_path)


def test_a_run_without_metrics_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(RunError, match=r"metrics\.jsonl: no such file"):
        write_report(tmp_path)


def test_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[evaluation]\ncutof = 7\n")
    with pytest.raises(ConfigError, match="cutoff"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [(8.0, "8"), (7.9991, "8"), (2.3, "2.3"), (0.0001, "0.001"), (100.0, "100")],
)
def test_epsilon_is_never_rounded_down(epsilon: float, text: str) -> None:
    assert epsilon_text(epsilon) == text


@pytest.mark.parametrize(
    ("delta", "text"),
    [(5.341e-4, "5.4 x 10⁻⁴"), (1e-5, "1 x 10⁻⁵"), (9.99e-4, "1 x 10⁻³"), (0.0, "0")],
)
def test_delta_is_never_rounded_down(delta: float, text: str) -> None:
    assert (
        delta_text(delta).replace("\N{MULTIPLICATION SIGN}", "x").replace("\N{NBSP}", " ") == text
    )


def test_sizes_and_durations_change_units() -> None:
    assert [bytes_text(n) for n in (999, 1000, 2_500_000)] == ["999 B", "1.0 kB", "2.5 MB"]
    assert [seconds_text(s) for s in (0.4213, 12.34, 200, 7300)] == [
        "0.42 s",
        "12.3 s",
        "3 min 20 s",
        "2 h 1 min",
    ]
