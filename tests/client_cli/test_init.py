"""``tacit client init``: what it writes, what it says, and what it leaves when it fails."""

import json
import re
import sqlite3
import stat
import tomllib
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from client.approval import public_key
from client.data.findings import Findings
from client.data.store import read_store
from client.directory import open_ledger, read_population
from client.node_key import load_node_key
from client.outlook import outlook
from client.settings import AgentSettings, settings_path, socket_path
from client.setup import default_policy, make_organisation, wishes
from shared.accounting import Event, epsilon_checked
from shared.assets import MINILM_SHA256
from shared.calibration import sigma_for
from shared.chain import Record, read_sealed
from shared.entries import Opening, parse_entry
from shared.errors import RunError
from shared.policy import Policy

Tacit = Callable[..., Any]


def options(shop: Path, **changed: str) -> list[str]:
    """Options of an organisation that can be made, but for those changed."""
    chosen = {"name": "House", "users": "10", "data": str(shop)} | changed
    return [part for key, value in chosen.items() for part in (f"--{key}", value)]


def test_only_the_owner_can_enter_the_folders_and_read_the_keys(first_made: Any) -> None:
    org, node = first_made.org, first_made.node
    for folder in (org, node, org / "keys"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for key in (org / "keys/organisation.pem", org / "keys/population.secret", node / "key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_policy_explains_itself_and_allows_the_chosen_base_alone(first_made: Any) -> None:
    text = (first_made.org / "policy.toml").read_text()
    policy = Policy.load(first_made.org / "policy.toml")
    assert "# Public keys of servers that may ask" in text
    assert policy.model.allowed_bases == (MINILM_SHA256,)
    assert policy.organisation.declared_users == 10
    assert policy.budget.delta <= 1 / 10
    assert policy.federations.allowed == ()


def test_the_ledger_begins_with_the_policy_and_the_purpose_of_a_federation(first_made: Any) -> None:
    sealed = read_sealed(first_made.org / "ledger.sqlite")
    entry = parse_entry(Record.parse(sealed[0].text))
    assert isinstance(entry, Opening)
    assert entry.purpose == "federation"
    assert entry.policy_sha256 == Policy.load(first_made.org / "policy.toml").sha256
    assert entry.population == read_population(first_made.org)


def test_a_made_organisation_opens(made: Any) -> None:
    ledger = open_ledger(made.org)
    ledger.close()
    catalogue, histories = read_store(made.org / "histories.duckdb")
    assert (len(catalogue), len(histories)) == (20, 12)
    assert json.loads((made.org / "organisation.json").read_text())["number"] == 0


def test_the_nodes_keys_belong_together_and_name_the_organisation(first_made: Any) -> None:
    private = load_node_key(first_made.node)
    line = (first_made.node / "key.pub").read_text()
    public = load_ssh_public_key(line.encode())
    assert public.public_numbers() == private.public_key().public_numbers()  # type: ignore[union-attr]
    assert line.startswith("ecdsa-sha2-nistp384 ")
    assert line.endswith(" House\n")


def test_what_was_found_and_what_comes_next_is_said(
    tacit: Tacit, shop: Path, tmp_path: Path
) -> None:
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop))
    assert done.status == 0
    assert "12 users, 20 items, 72 interactions from 2023-11-14 to 2023-11-19" in done.out
    assert "Left out: 1 user with fewer than 5 interactions." in done.out
    assert f"tacit client approve {tmp_path / 'org'} --federation KEY" in done.out
    assert f"send {tmp_path / 'org-node' / 'key.pub'} to the federation" in done.out
    assert "Warning" not in done.out


def test_for_secure_sums_the_policy_shares_noise_and_the_own_key_is_told(
    tacit: Tacit, shop: Path, tmp_path: Path
) -> None:
    org = tmp_path / "org"
    secure = ("--aggregation", "secure", "--organisations", "4", "--dropouts", "1")
    done = tacit("client", "init", str(org), *options(shop), *secure)
    assert done.status == 0
    policy = Policy.load(org / "policy.toml")
    assert (policy.mechanism.noise, policy.mechanism.distribution) == ("shared", ("discrete",))
    assert policy.mechanism.least_noise_share == pytest.approx(0.5**0.5)
    trust = policy.trust
    assert (trust.binds, trust.colluders, trust.least_participants) == ("joint", 1, 3)
    assert trust.members == ()
    own = public_key(org)
    assert f"Its ledger's public key, by which others know it: {own}" in done.out
    assert f"tell each other organisation, by another way than the server: --member {own}" in (
        done.out
    )
    assert f"tacit client approve {org} --member KEY" in done.out
    assert "simulated_sum = false" in (org / "policy.toml").read_text()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--aggregation", "secure"], "--organisations"),
        (["--organisations", "4"], "--aggregation secure"),
        (["--aggregation", "secure", "--organisations", "2"], "a secure sum needs 3 or more"),
    ],
)
def test_figures_that_make_no_secure_sum_are_refused_before_anything_is_made(
    tacit: Tacit, shop: Path, tmp_path: Path, given: list[str], told: str
) -> None:
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop), *given)
    assert done.status == 2
    assert told in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("declared", "warned"), [("5", True), ("24", False), ("25", True)])
def test_a_declared_size_beyond_twice_or_half_the_true_one_is_warned_of(
    tacit: Tacit, shop: Path, tmp_path: Path, declared: str, warned: bool
) -> None:
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop, users=declared))
    assert done.status == 0
    assert ("the declared size is public" in done.out) is warned


def test_the_forecast_keeps_to_the_budget(first_made: Any) -> None:
    policy = Policy.load(first_made.org / "policy.toml")
    shares = outlook(policy)
    assert [share.runs for share in shares] == [1, 2, 5, 10, 25]
    assert shares[0].epsilon == pytest.approx(8.0, abs=1e-3)
    assert all(a.epsilon > b.epsilon for a, b in pairwise(shares))
    # One Gaussian of the last share's epsilon, as often as it says.
    sigma = sigma_for(shares[-1].epsilon, policy.budget.delta, 1.0, 1)
    together = epsilon_checked([Event(1.0, sigma, 25)], policy.budget.delta)
    assert together == pytest.approx(8.0, rel=2e-3)


def test_a_second_init_refuses_and_changes_nothing(tacit: Tacit, shop: Path, made: Any) -> None:
    before = {path: path.read_bytes() for path in made.org.rglob("*") if path.is_file()}
    done = tacit("client", "init", str(made.org), *options(shop, name="Other"))
    assert done.status == 2
    assert "is there already" in done.err
    assert before == {path: path.read_bytes() for path in made.org.rglob("*") if path.is_file()}


def test_a_taken_folder_of_the_node_refuses_too(tacit: Tacit, shop: Path, tmp_path: Path) -> None:
    (tmp_path / "org-node").mkdir()
    (tmp_path / "org-node" / "key").write_text("another's")
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop))
    assert done.status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["org-node"]
    assert (tmp_path / "org-node" / "key").read_text() == "another's"


def test_empty_folders_that_a_service_manager_made_are_taken(
    tacit: Tacit, shop: Path, tmp_path: Path
) -> None:
    for name in ("org", "org-node"):
        (tmp_path / name).mkdir()
    assert tacit("client", "init", str(tmp_path / "org"), *options(shop)).status == 0
    assert (tmp_path / "org" / "organisation.json").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data": "nowhere"}, "no such file or folder"),
        ({"time-column": "when"}, "when"),
        ({"epsilon": "-1"}, "budget.epsilon"),
        ({"delta": "0.5"}, "more than 1 / declared_users"),
        ({"base": "no/such/base"}, "no/such/base"),
        ({"set": "machine.devices=cpu"}, "did you mean machine.device"),
        ({"socket": "/tmp/" + "x" * 120}, "at most 107 bytes"),
        ({"socket": "/tmp/a b.sock"}, "no quotes, backslashes or spaces"),
    ],
)
def test_nothing_is_left_behind_when_something_is_wrong(
    tacit: Tacit,
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    told: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop, **changed))
    assert done.status == 2
    assert told in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_the_address_is_refused_and_shown_nowhere(
    tacit: Tacit, shop: Path, tmp_path: Path
) -> None:
    data = "postgresql://me:geheim@127.0.0.1:1/shop"
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop, data=data))
    assert done.status == 2
    assert "${NAME}" in done.err
    assert "geheim" not in done.out + done.err
    assert list(tmp_path.iterdir()) == []


def test_a_database_is_read_by_an_address_that_holds_a_variable(
    tacit: Tacit, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection:
        connection.execute("CREATE TABLE items (item TEXT, title TEXT)")
        connection.execute("CREATE TABLE interactions (user TEXT, item TEXT, time INTEGER)")
        connection.executemany("INSERT INTO items VALUES (?, ?)", [("a", "A"), ("b", "B")])
        rows = [(f"u{user}", "ab"[place % 2], place) for user in range(9) for place in range(6)]
        connection.executemany("INSERT INTO interactions VALUES (?, ?, ?)", rows)
        connection.commit()
    monkeypatch.setenv("SHOP", f"sqlite:///{tmp_path / 'shop.sqlite'}")
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop, data="${SHOP}"))
    assert done.status == 0
    assert "9 users, 2 items, 54 interactions" in done.out
    assert AgentSettings.load(settings_path(tmp_path / "org")).data.source == "${SHOP}"


def test_bad_rows_leave_nothing_behind(tacit: Tacit, shop: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "items.csv").write_bytes((shop / "items.csv").read_bytes())
    (data / "interactions.csv").write_text("user,item,time\nu1,i1,yesterday\n")
    done = tacit("client", "init", str(tmp_path / "org"), *options(data))
    assert done.status == 2
    assert "yesterday" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_another_init_left_is_told_and_not_taken(
    tacit: Tacit, shop: Path, tmp_path: Path
) -> None:
    (tmp_path / ".org.part").mkdir()
    done = tacit("client", "init", str(tmp_path / "org"), *options(shop))
    assert done.status == 2
    assert "was left by another tacit client init" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [".org.part"]


def test_a_node_that_cannot_take_its_place_leaves_no_organisation(
    shop: Path, tmp_path: Path
) -> None:
    chosen = wishes(tmp_path / "org", None, "House", {"data.source": str(shop)}, [])

    def meanwhile(_: Findings) -> Policy:
        chosen.node.mkdir()
        (chosen.node / "key").write_text("another's")
        return default_policy("House", 10, 8.0, None, MINILM_SHA256)

    with pytest.raises(RunError, match="cannot be made"):
        make_organisation(chosen, meanwhile, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["org-node"]
    assert (chosen.node / "key").read_text() == "another's"


@pytest.mark.parametrize("missing", ["--name", "--users", "--data"])
def test_without_a_terminal_the_missing_option_is_named(
    tacit: Tacit, shop: Path, tmp_path: Path, missing: str
) -> None:
    given = options(shop)
    place = given.index(missing)
    done = tacit("client", "init", str(tmp_path / "org"), *given[:place], *given[place + 2 :])
    assert done.status == 2
    assert f"give {missing}; there is no terminal to ask at" in done.err
    assert list(tmp_path.iterdir()) == []


def test_paths_in_the_settings_hold_from_any_folder(
    tacit: Tacit, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shop.parent)
    org, node = tmp_path / "org", tmp_path / "elsewhere"
    given = options(Path(shop.name))
    assert tacit("client", "init", str(org), *given, "--node", str(node)).status == 0
    settings = AgentSettings.load(settings_path(org))
    assert settings.data.source == str(shop)
    assert socket_path(org, settings) == node / "agent.sock"


def test_the_settings_explain_themselves_and_take_any_option(
    tacit: Tacit, shop: Path, tmp_path: Path
) -> None:
    extra = ["--set", "machine.device=cpu", "--set", "superlink.address=fed.example:9092"]
    org = tmp_path / "org"
    assert tacit("client", "init", str(org), *options(shop), *extra).status == 0
    text = settings_path(org).read_text()
    assert re.search(r"^# auto, cpu or cuda\.$", text, re.MULTILINE)
    values = tomllib.loads(text)
    assert values["machine"]["device"] == "cpu"
    assert values["superlink"]["address"] == "fed.example:9092"


def test_at_a_terminal_a_round_size_is_proposed_and_not_the_exact_one(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client import init_cli

    proposed = []

    def answer(question: str, **chosen: Any) -> Any:
        proposed.append(chosen.get("default"))
        return chosen["default"]

    # A pretended terminal: pytest has none.
    monkeypatch.setattr(init_cli.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(init_cli.typer, "prompt", answer)
    assert init_cli._asked_size(94_321) == 94_000
    assert init_cli._asked_size(943) == 940
    assert proposed == [94_000, 940]
