"""A federation that was approved and turned hostile: its server and the code that it sends out."""

import json
import shutil
from pathlib import Path

import pytest
from lab.federation import ADAPTER_ALONE, SMALL, TWO_USERS, Federation
from lab.processes import wait_until

from server.ops.folder import Folder
from server.ops.submit import build_app
from shared.config import load_config
from shared.entries import Intent, Release

pytestmark = pytest.mark.slow

HOSTILE = Path(__file__).parent / "lab" / "hostile"
RULES = {
    "sigma-0": "mechanism.least_noise_multiplier",
    "steps-10000": "budget.epsilon",
    "clip-1e9": "mechanism.greatest_clipping_norm",
}


@pytest.fixture(scope="module")
def attempts(joined: Federation) -> dict[str, list[str]]:
    """What three organisations answered to each attempt."""
    joined.heal()
    return raid(joined)


def raid(federation: Federation) -> dict[str, list[str]]:
    base = next(iter(federation.houses.values())).base
    config = load_config(
        None,
        [*SMALL, *ADAPTER_ALONE, f"base.name={base}"],
        {"partition.organisations": 3},
    )
    directory = federation.fed / "runs" / "hostile"
    directory.mkdir(parents=True)
    app = build_app(Folder(federation.fed), directory, config)
    shutil.copy(HOSTILE / "server_app.py", app / "server" / "app.py")
    shutil.copy(HOSTILE / "client_app.py", app / "client" / "app.py")
    said = federation.flwr("run", str(app), "tacit")
    assert "Successfully started run" in said, said
    wait_until(
        lambda: all(r["status"].startswith("finished") for r in federation.flower_runs()),
        "the hostile run ended",
    )
    found: dict[str, list[str]] = json.loads((directory / "attempts.json").read_text())
    return found


@pytest.mark.parametrize("name", RULES)
def test_a_plan_that_the_policy_does_not_allow_is_refused_and_on_record(
    attempts: dict[str, list[str]], joined: Federation, name: str
) -> None:
    for kind in ("plan", "train"):
        answers = attempts[f"{name} {kind}"]
        assert len(answers) == 3
        assert all(RULES[name] in answer for answer in answers), answers
    for house in joined.houses.values():
        rules = [refusal.rule for _, refusal in house.refusals(f"hostile-{name}/")]
        assert RULES[name] in rules


def test_another_base_model_is_refused(attempts: dict[str, list[str]], joined: Federation) -> None:
    assert all("the request is for model abababababab" in a for a in attempts["another base train"])
    for house in joined.houses.values():
        assert [r.rule for _, r in house.refusals("hostile-base/")] == ["model"]


def test_a_server_whose_key_was_not_approved_is_refused(
    attempts: dict[str, list[str]], joined: Federation
) -> None:
    assert len(attempts["stranger train"]) == 3
    assert all("federations.allowed" in answer for answer in attempts["stranger train"])
    for house in joined.houses.values():
        (found,) = [r for name, r in house.refusals("hostile-stranger/")]
        assert found.rule == "federations.allowed"


def test_code_of_a_hostile_run_gets_nothing_from_the_agent(
    attempts: dict[str, list[str]], joined: Federation
) -> None:
    assert len(attempts["raids"]) == 3
    for answer in attempts["raids"]:
        statuses = [part.split()[2] for part in answer.split("; ")[:6]]
        assert set(statuses) == {"403"}, answer


def test_code_of_a_hostile_run_opens_no_file_where_the_supernode_has_a_user_of_its_own(
    attempts: dict[str, list[str]], joined: Federation
) -> None:
    denied = [answer for answer in attempts["raids"] if "READ" not in answer]
    assert len(denied) == 1, f"only {TWO_USERS} separates the users here"
    files = denied[0].split("; ")[6:]
    assert len(files) == 7
    assert all(found.endswith("Permission denied") for found in files)


def test_nothing_left_and_nothing_was_spent(
    attempts: dict[str, list[str]], joined: Federation
) -> None:
    assert not any("ANSWERED" in answer for answers in attempts.values() for answer in answers)
    for house in joined.houses.values():
        entries = [entry for request, entry in house.entries() if request.startswith("hostile")]
        assert not [entry for entry in entries if isinstance(entry, Intent)]
        assert not [e for e in entries if isinstance(e, Release) and e.mechanism != "none"]
        assert not house.verified(joined.heads).faults
