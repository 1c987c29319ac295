"""A run's settings, as they come from a server: what they reach, and what they cannot."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.settings import AgentSettings
from shared import messages
from shared.config import Config, parse_config
from shared.errors import ConfigError, RefusedError, TacitError
from shared.messages import signed
from shared.models import load_model
from shared.settings import SHARED, adopt, shared_settings
from shared.wire import LONGEST_REASON
from tests.agent.house import ROWS, House, Server, memory_bytes, parcel, reply_of, statistics

MEBIBYTE = 1024**2

LOCAL = AgentSettings.model_validate(
    {
        "data": {"source": "own data"},
        "base": {"name": "own base", "precision": "float32", "warm_start": "own start"},
        "machine": {"threads": 3, "device": "cpu", "micro_batch_rows": 5},
        "personalisation": {"own_cooccurrence": 0.5, "least_users": 7},
        "audit": {"canaries": 9},
    }
).to_config()


def changed(config: Config, **sections: dict[str, Any]) -> str:
    """The shared settings with some values changed, whatever they are."""
    values = json.loads(shared_settings(config))
    for name, table in sections.items():
        values[name] = values[name] | table if isinstance(table, dict) and name in values else table
    return json.dumps(values)


whole = st.integers(1, 10**6)
shares = st.floats(0.0, 1.0)
RUNS = st.fixed_dictionaries(
    {
        "run": st.fixed_dictionaries({"seed": st.integers(0, 2**40), "threads": st.integers(0, 9)}),
        "data": st.fixed_dictionaries({"source": st.text(max_size=5)}),
        "base": st.fixed_dictionaries({"name": st.text(max_size=5)}),
        "model": st.fixed_dictionaries(
            {
                "layers": whole,
                "rank": whole,
                "alpha": whole,
                "window": st.integers(2, 4096),
                "warm_start": st.text(max_size=5),
                "adapter": st.sampled_from(["lora", "ffa-lora"]),
                "targets": st.lists(st.text(max_size=4), max_size=3),
            }
        ),
        "privacy": st.fixed_dictionaries(
            {
                "epsilon": st.floats(0.1, 50.0),
                "noise": st.sampled_from(["own", "shared", "none"]),
                "noise_seed": st.integers(-1, 10**6),
                "clipping": st.sampled_from(["automatic", "flat"]),
                "clipping_norm": st.floats(0.1, 1e9),
            }
        ),
        "statistics": st.fixed_dictionaries({"top_items": whole, "pair_decay": shares}),
        "training": st.fixed_dictionaries(
            {
                "rounds": whole,
                "steps_per_round": whole,
                "sampling_rate": st.floats(0.01, 1.0),
                "step_size": st.floats(0.001, 1e9),
                "micro_batch_rows": whole,
            }
        ),
        "server": st.fixed_dictionaries({"min_replies": whole}),
        "fusion": st.fixed_dictionaries({"adapter_weight": st.floats(0.0, 9.0)}),
        "evaluation": st.fixed_dictionaries({"cutoff": whole, "every_rounds": whole}),
        "personalisation": st.fixed_dictionaries(
            {"own_cooccurrence": st.floats(0.0, 9.0), "least_users": whole}
        ),
        "audit": st.fixed_dictionaries({"canaries": st.integers(0, 10**6)}),
    }
)


@settings(max_examples=100, deadline=None)
@given(values=RUNS)
def test_nothing_of_a_run_reaches_an_agent_but_the_shared_settings(values: dict[str, Any]) -> None:
    run = parse_config(values, "test")
    adopted = adopt(LOCAL, shared_settings(run))
    own, came, made = (c.model_dump() for c in (LOCAL, run, adopted))
    for section, table in made.items():
        for key, value in table.items():
            source = came if key in SHARED.get(section, ()) else own
            assert value == source[section][key], (section, key)


def test_noise_seeds_data_files_and_canaries_are_no_shared_settings() -> None:
    assert set(SHARED) == {
        "run",
        "model",
        "privacy",
        "statistics",
        "training",
        "fusion",
        "evaluation",
    }
    assert SHARED["run"] == ("seed",)
    assert "warm_start" not in SHARED["model"]
    assert not {"noise", "noise_seed", "epsilon", "delta", "distribution", "clipping_norm"} & set(
        SHARED["privacy"]
    )
    assert set(SHARED["training"]) == {"steps_per_round", "step_size"}


@pytest.mark.parametrize(
    "extra",
    [
        {"privacy": {"noise": "none"}},
        {"privacy": {"noise_seed": 1}},
        {"privacy": {"epsilon": 50.0}},
        {"privacy": {"distribution": "gaussian"}},
        {"model": {"warm_start": "/etc"}},
        {"data": {"source": "/etc/passwd"}},
        {"base": {"name": "other"}},
        {"audit": {"canaries": 10**9}},
        {"personalisation": {"own_cooccurrence": 1.0}},
        {"run": {"organisations": "/"}},
        {"run": {"threads": 0}},
        {"training": {"micro_batch_rows": 10**9}},
        {"training": {"sampling_rate": 1.0}},
        {"evaluation": {"protocol": "temporal"}},
    ],
    ids=str,
)
def test_a_setting_that_is_the_organisation_s_own_is_refused(
    config: Config, extra: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="same version"):
        adopt(LOCAL, changed(config, **extra))


BAD: dict[str, str] = {
    "empty": "",
    "number": "3",
    "text": '"model"',
    "list": "[]",
    "null": "null",
    "section-is-a-list": '{"model": ["rank"]}',
    "section-is-a-number": '{"model": 1}',
    "too-few": "{}",
    "deep": "[" * 200_000,
    "deep-objects": '{"a":' * 200_000,
    "long-number": '{"run": {"seed": ' + "9" * 10_000 + "}}",
}
HOSTILE: dict[str, dict[str, Any]] = {
    "rank-0": {"model": {"rank": 0}},
    "rank-negative": {"model": {"rank": -1}},
    "rank-text": {"model": {"rank": "many"}},
    "rank-half": {"model": {"rank": 1.5}},
    "rank-list": {"model": {"rank": [2]}},
    "window-nan": {"model": {"window": float("nan")}},
    "temperature-0": {"model": {"temperature": 0.0}},
    "temperature-infinite": {"model": {"temperature": float("inf")}},
    "step-size-nan": {"training": {"step_size": float("nan")}},
    "step-size-infinite": {"training": {"step_size": float("inf")}},
    "step-size-negative": {"training": {"step_size": -1.0}},
    "weight-nan": {"statistics": {"weight": float("nan")}},
    "shares-beyond-one": {"privacy": {"adapter_share": 1.0}},
    "clipping-none": {"privacy": {"clipping": "none"}},
    "adapter-unknown": {"model": {"adapter": "full"}},
    "targets-number": {"model": {"targets": 7}},
    "seed-negative": {"run": {"seed": -1}},
    "section-null": {"model": None},  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", [*BAD, *HOSTILE])
def test_settings_that_are_none_are_refused_on_record_over_both_ways(
    way: Any, server: Server, config: Config, name: str
) -> None:
    text = BAD[name] if name in BAD else changed(config, **HOSTILE[name])
    with pytest.raises(RefusedError, match="settings"):
        way.ask(messages.POPULARITY, server.request(messages.POPULARITY, settings=text))
    assert way.house.rules() == ["request"]
    assert way.house.intents() == []


def test_a_long_wrong_setting_is_not_copied_into_the_ledger(
    way: Any, server: Server, config: Config
) -> None:
    text = changed(config, model={"rank": "x" * 90_000})
    with pytest.raises(RefusedError, match="settings"):
        way.ask(messages.JOIN, server.request(messages.JOIN, settings=text))
    assert all(len(refusal.sentence) <= LONGEST_REASON for refusal in way.house.refusals())


def test_ten_megabytes_of_nesting_are_refused_without_growth(house: House, server: Server) -> None:
    with house.agent() as process:
        assert process.pid is not None
        house.access().ask(messages.JOIN, server.request(messages.JOIN))
        before = memory_bytes(process.pid)
        with pytest.raises(TacitError):
            house.access().ask(
                messages.JOIN, server.request(messages.JOIN, settings="[" * 10 * MEBIBYTE)
            )
        assert memory_bytes(process.pid) - before < 100 * MEBIBYTE
        assert reply_of(house.access().ask(messages.JOIN, server.request(messages.JOIN)))


# What a server may ask for by its settings that no machine can give: (kind, round, sections).
GREEDY: dict[str, tuple[str, int, dict[str, dict[str, Any]]]] = {
    "rank-plan": (messages.PLAN, 0, {"model": {"rank": 10**9}}),
    "rank-train": (messages.TRAIN, 1, {"model": {"rank": 10**9}}),
    "rank-deliver": (messages.DELIVER_ADAPTER, 3, {"model": {"rank": 10**9}}),
    "rank-evaluate": (messages.EVALUATE, 4, {"model": {"rank": 10**9}}),
    "rank-evaluate-millions": (messages.EVALUATE, 4, {"model": {"rank": 2 * 10**6}}),
    "layers-train": (messages.TRAIN, 1, {"model": {"layers": 10**9}}),
    "layers-evaluate": (messages.EVALUATE, 4, {"model": {"layers": 10**9}}),
    "window-other-hash": (messages.TRAIN, 1, {"model": {"window": 10**12}}),
    "window-evaluate": (messages.EVALUATE, 4, {"model": {"window": 10**12}}),
    "alpha-train": (messages.TRAIN, 1, {"model": {"alpha": 10**400}}),
    "seed-train": (messages.TRAIN, 1, {"run": {"seed": 10**30}}),
    "targets-train": (messages.TRAIN, 1, {"model": {"targets": ["x"] * 1000}}),
    "steps-train": (messages.TRAIN, 1, {"training": {"steps_per_round": 10**9}}),
    "step-size-train": (messages.TRAIN, 1, {"training": {"step_size": 1e308}}),
    "top-items": (messages.COOCCURRENCE, 0, {"statistics": {"top_items": 10**9}}),
    "pair-window": (messages.COOCCURRENCE, 0, {"statistics": {"pair_window": 10**9}}),
    "cutoff": (messages.EVALUATE, 4, {"evaluation": {"cutoff": 10**18}}),
    "statistics-rank": (messages.COOCCURRENCE, 0, {"statistics": {"rank": 10**18}}),
    "weight": (messages.EVALUATE, 4, {"statistics": {"weight": 1e308}}),
    "adapter-weight": (messages.EVALUATE, 4, {"fusion": {"adapter_weight": 1e308}}),
}


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_settings_are_refused_or_answered_in_little_memory_and_the_agent_lives(
    house: House, server: Server, config: Config, name: str
) -> None:
    kind, number, sections = GREEDY[name]
    with house.agent() as process:
        assert process.pid is not None
        for earlier, place in (
            (messages.JOIN, 0),
            (messages.DELIVER_STATISTICS, 0),
            (messages.DELIVER_ADAPTER, 2),
        ):
            house.access().ask(earlier, server.request(earlier, place))
        before = memory_bytes(process.pid)
        text = changed(config, **sections)
        request = server.request(kind, number, settings=text)
        told = ""
        try:
            reply_of(house.access(20.0).ask(kind, request))
        except TacitError as error:
            told = str(error)
        assert "does not answer" not in told, "it hung or died"
        peak = memory_peak_bytes(process.pid)
        assert peak - before < 300 * MEBIBYTE
        answered = reply_of(house.access(20.0).ask(messages.JOIN, server.request(messages.JOIN)))
        assert answered.name == "house"


def memory_peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024


@pytest.mark.parametrize("kind", [messages.PLAN, messages.TRAIN, messages.EVALUATE])
def test_an_adapter_of_greater_rank_than_the_policy_s_is_refused_before_it_is_made(
    make_house: Callable[..., House],
    open_way: Callable[..., Any],
    server: Server,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    way = open_way(make_house(model={"greatest_rank": 4}), "here")
    way.ask(messages.DELIVER_STATISTICS, server.request(messages.DELIVER_STATISTICS))
    made: list[Config] = []

    def keeps(catalogue: Any, made_for: Config) -> None:
        made.append(made_for)
        raise AssertionError("made")

    monkeypatch.setattr("client.organisation.resources_of", keeps)
    request = server.request(kind, 1, settings=changed(config, model={"rank": 5}))
    with pytest.raises(RefusedError, match=r"model\.greatest_rank"):
        way.ask(kind, request)
    assert made == []
    assert way.house.rules() == ["model.greatest_rank"]


def test_more_steps_in_a_round_than_the_plan_has_left_are_refused(
    way: Any, server: Server, config: Config
) -> None:
    way.ask(messages.DELIVER_STATISTICS, server.request(messages.DELIVER_STATISTICS))
    way.ask(messages.TRAIN, server.request(messages.TRAIN, 1))
    three = changed(config, training={"steps_per_round": 3})
    with pytest.raises(RefusedError, match="no further step"):
        way.ask(messages.TRAIN, server.request(messages.TRAIN, 2, settings=three))
    two = changed(config, training={"steps_per_round": 2})
    assert reply_of(way.ask(messages.TRAIN, server.request(messages.TRAIN, 3, settings=two)))
    with pytest.raises(RefusedError, match="no further step"):
        way.ask(messages.TRAIN, server.request(messages.TRAIN, 4))
    assert sum(i.count for i in way.house.intents() if i.mechanism == "step") == 3


@pytest.mark.parametrize(
    "sections", [{"model": {"rank": 3}}, {"model": {"alpha": 7}}, {"run": {"seed": 5}}], ids=str
)
def test_another_model_in_the_middle_of_a_run_is_refused_by_its_hash(
    way: Any, server: Server, config: Config, sections: dict[str, Any]
) -> None:
    way.ask(messages.DELIVER_STATISTICS, server.request(messages.DELIVER_STATISTICS))
    way.ask(messages.TRAIN, server.request(messages.TRAIN, 1))
    request = server.request(messages.TRAIN, 2, settings=changed(config, **sections))
    with pytest.raises(RefusedError, match=r"\[model\]"):
        way.ask(messages.TRAIN, request)
    assert len(way.house.intents()) == 1


def test_settings_are_signed(way: Any, server: Server, config: Config) -> None:
    request = signed(messages.JOIN, server.unsigned(messages.JOIN), server.key)
    other = parcel(request)
    fields = dict(other.fields) | {"settings": changed(config, model={"rank": 3})}
    with pytest.raises(RefusedError, match=r"request\.signature"):
        way.ask(messages.JOIN, type(other)(fields, other.arrays))


def test_a_window_with_canaries_takes_no_more_memory_than_the_model_can_read(
    make_house: Callable[..., House], server: Server
) -> None:
    house = make_house(own={"audit": {"canaries": 5}})
    with house.agent() as process:
        assert process.pid is not None
        for earlier in (messages.JOIN, messages.DELIVER_STATISTICS):
            house.access().ask(earlier, server.request(earlier))
        before = memory_bytes(process.pid)
        far = with_window(server, 2 * 10**7)
        with pytest.raises(TacitError):
            house.access().ask(messages.TRAIN, far.request(messages.TRAIN, 1))
        assert memory_peak_bytes(process.pid) - before < 300 * MEBIBYTE


def test_a_window_beyond_the_model_s_positions_is_refused_before_anything_is_spent(
    way: Any, server: Server
) -> None:
    """Otherwise it fails only where some user's history is that long, which tells of that user."""
    way.house.write_rows([*ROWS, tuple(range(40))])
    way.ask(messages.JOIN, server.request(messages.JOIN))
    way.ask(messages.DELIVER_STATISTICS, server.request(messages.DELIVER_STATISTICS))
    far = with_window(server, 33)
    with pytest.raises(RefusedError):
        way.ask(messages.TRAIN, far.request(messages.TRAIN, 1))
    assert way.house.intents() == []


def with_window(server: Server, window: int) -> Server:
    """The server with a longer window, and the model's hash that goes with it."""
    model = server.config.model.model_copy(update={"window": window})
    config = server.config.model_copy(update={"model": model})
    return dataclasses.replace(server, config=config, loaded=load_model(config))


def test_whether_an_evaluation_fails_does_not_tell_what_a_user_had(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server, config: Config
) -> None:
    """The server delivers scores that only a user with one certain item makes overflow."""
    told = []
    text = changed(config, statistics={"weight": 1e39})
    for name, rows in (("with", [*ROWS, (20, 1, 2)]), ("without", [*ROWS, (21, 1, 2)])):
        house = make_house(name)
        house.write_rows(rows)
        way = open_way(house, "here")
        transition = np.zeros((3, 3))
        transition[0, 1] = 1.0
        delivered = statistics(top=np.array([20, 1, 2]), transition=transition)
        way.ask(
            messages.DELIVER_STATISTICS,
            server.request(messages.DELIVER_STATISTICS, arrays=delivered),
        )
        try:
            way.ask(messages.EVALUATE, server.request(messages.EVALUATE, 4, settings=text))
            told.append("answered")
        except TacitError as error:
            told.append(str(error))
    assert told[0] == told[1]


def test_a_run_whose_name_is_a_way_out_of_a_folder_writes_nothing_outside(
    make_house: Callable[..., House], open_way: Callable[..., Any], server: Server
) -> None:
    house = make_house(own={"audit": {"canaries": 5}})
    way = open_way(house, "here")
    way.ask(messages.JOIN, server.request(messages.JOIN))
    before = {path.name for path in house.directory.iterdir()}
    for run in (".", "..", "..."):
        request = server.request(messages.POPULARITY, run=run)
        try:
            way.ask(messages.POPULARITY, request)
        except TacitError:
            continue
    assert {path.name for path in house.directory.iterdir()} - before <= {"audit", "answers"}
    assert not (house.directory / "audit").exists()
