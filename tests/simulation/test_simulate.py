"""The main job from data to report, on a small data set with a tiny base."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModel

from client.directory import open_ledger
from client.ledger import Ledger
from server.checkpoint import load_checkpoint
from shared.adapters import load_adapter, load_arrays
from shared.config import Config, load_config
from shared.errors import ConfigError, DataError, RunError
from shared.models import load_model
from shared.user_model import UserModel, load_backbone
from simulations import records
from simulations.federate import federate
from simulations.simulate import simulate
from simulations.world import World, build_world

MakeConfig = Callable[..., Config]

Kind = TypeVar("Kind", bound=records.Line)

EPSILON = 8.0
NOT_PRIVATE = "**not private**"


@dataclass(frozen=True)
class Finished:
    """A run folder, its configuration, and what stood on the screen."""

    folder: Path
    config: Config
    screen: str

    def records(self, kind: type[Kind]) -> list[Kind]:
        found = records.read_records(self.folder / "metrics.jsonl")
        return [record for record in found if isinstance(record, kind)]


def run(config: Config, folder: Path, resume: bool = False) -> Finished:
    screen = io.StringIO()
    simulate(config, folder, Console(file=screen, width=120), resume=resume)
    return Finished(folder, config, screen.getvalue())


@pytest.fixture(scope="module")
def finished(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = make_config(privacy={"epsilon": EPSILON})
    return run(config, tmp_path_factory.mktemp("runs") / "run")


def houses(folder: Path) -> list[Path]:
    """Folders of the two organisations that live in a run's folder."""
    return [folder / "organisations" / name for name in ("0001", "0002")]


def open_ledgers(folder: Path) -> list[Ledger]:
    """Ledgers of a run."""
    return [open_ledger(house) for house in houses(folder)]


def test_the_run_folder_holds_what_the_docs_promise(finished: Finished) -> None:
    folder = finished.folder
    for name in (
        "config.toml",
        "metrics.jsonl",
        "plan.json",
        "report.html",
        "statistics/statistics.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/README.md",
        "organisations/0001/ledger.sqlite",
        "organisations/0001/policy.toml",
        "organisations/0001/judgement.json",
        "organisations/0001/keys/organisation.pem",
        "organisations/0001/keys/population.secret",
        "organisations/0002/ledger.sqlite",
        "server/heads.jsonl",
        "server/server.pem",
        "organisations/0001/delivered/statistics.safetensors",
        "organisations/0001/delivered/adapter/adapter_model.safetensors",
        "noise_free/organisations/0001/ledger.sqlite",
    ):
        assert (folder / name).stat().st_size > 0, name


def test_no_file_is_left_half_written_and_none_is_a_pickle(finished: Finished) -> None:
    files = [path for path in finished.folder.rglob("*") if path.is_file()]
    assert [path for path in files if path.name.endswith(".part")] == []
    assert {path.suffix for path in files} <= {
        ".duckdb",
        ".html",
        ".json",
        ".jsonl",
        ".md",
        ".pem",
        ".safetensors",
        ".secret",
        ".sqlite",
        ".toml",
    }


def test_the_kept_configuration_is_that_of_the_run(finished: Finished) -> None:
    assert load_config(finished.folder / "config.toml") == finished.config


def test_the_adapter_loads_with_peft_and_gives_the_hidden_states_of_the_trained_model(
    finished: Finished,
) -> None:
    loaded = load_model(finished.config)
    checkpoint = load_checkpoint(
        finished.folder / "checkpoints", _plan_sha256(finished.folder / "plan.json")
    )
    assert checkpoint is not None
    assert any(np.abs(value).max() > 0.0 for value in checkpoint.adapter.values())
    load_arrays(loaded.model, checkpoint.adapter)
    options = finished.config.model
    backbone = load_backbone(loaded.encoder.path, options.layers, options.layers_from)
    again = PeftModel.from_pretrained(backbone, finished.folder / "adapter")
    reloaded = UserModel(again, loaded.model.input_scale, options.temperature).eval()
    embedded = torch.randn(3, 7, loaded.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained = loaded.model(embedded)
        assert torch.equal(reloaded(embedded), trained)
        load_arrays(loaded.model, loaded.initial)
        assert not torch.allclose(loaded.model(embedded), trained, atol=1e-5)


def test_the_adapter_loads_onto_the_whole_base_too(finished: Finished, tiny_base: Path) -> None:
    whole = AutoModel.from_pretrained(tiny_base, is_decoder=True, add_pooling_layer=False)
    adapted = PeftModel.from_pretrained(whole, finished.folder / "adapter")
    held = {name for name, _ in adapted.named_parameters() if ".lora_B." in name}
    assert {name.split(".layer.")[1][0] for name in held} == {"1", "2"}
    arrays, _ = load_adapter(load_model(finished.config).model, finished.folder / "adapter")
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            assert np.array_equal(parameter.detach().numpy(), arrays[f"backbone.{name}"])


def test_every_organisation_gets_the_adapter_of_the_run(finished: Finished) -> None:
    own = (finished.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    for house in houses(finished.folder):
        delivered = house / "delivered" / "adapter"
        assert (delivered / "adapter_model.safetensors").read_bytes() == own


def test_the_private_run_keeps_to_its_budget(finished: Finished) -> None:
    for ledger in open_ledgers(finished.folder):
        with ledger:
            assert ledger.private()
            assert 0.99 * EPSILON < ledger.spent() <= EPSILON


def test_the_private_card_states_the_guarantee(finished: Finished) -> None:
    for folder in (finished.folder, houses(finished.folder)[0] / "delivered"):
        card = (folder / "adapter" / "README.md").read_text()
        assert "epsilon 8 at delta" in card
        assert "add or remove one user" in card
        assert NOT_PRIVATE not in card


def test_the_twin_without_noise_is_marked_not_private_everywhere(finished: Finished) -> None:
    twin = finished.folder / "noise_free"
    for folder in (twin, houses(twin)[0] / "delivered"):
        assert NOT_PRIVATE in (folder / "adapter" / "README.md").read_text()
    for ledger in open_ledgers(twin):
        with ledger:
            assert not ledger.private()
            assert ledger.spent() == float("inf")


def test_what_the_ledgers_hold_is_what_the_records_say(finished: Finished) -> None:
    found = finished.records(records.OrganisationRecord)
    assert [record.name for record in found] == ["org-1", "org-2"]
    for record, ledger in zip(found, open_ledgers(finished.folder), strict=True):
        with ledger:
            assert record.epsilon_spent == pytest.approx(ledger.spent())
        assert {release.what: release.times for release in record.releases} == {
            "popularity": 1,
            "cooccurrence": 1,
            "step": 2,
        }


def test_every_round_of_both_runs_is_recorded_with_the_epsilon_spent(finished: Finished) -> None:
    rounds = finished.records(records.RoundRecord)
    private = [record for record in rounds if record.run == "private"]
    assert [record.round for record in private] == [1, 2]
    first, second = (record.epsilon or 0.0 for record in private)
    assert 0.0 < first < second <= EPSILON * 1.01
    assert [r.epsilon for r in rounds if r.run == "noise_free"] == [None, None]
    assert all(record.replies == 2 for record in rounds)


def test_the_stages_of_a_round_are_recorded_and_fit_into_it(finished: Finished) -> None:
    for record in finished.records(records.RoundRecord):
        assert {"forward", "backward", "clip", "noise", "ledger", "aggregate"} <= set(record.stages)
        assert sum(record.stages.values()) <= record.seconds
    evaluations = finished.records(records.EvaluationRecord)
    assert all(record.seconds for record in evaluations)


def test_the_screen_says_where_the_time_of_a_round_went(finished: Finished) -> None:
    told = " ".join(finished.screen.partition("A round took")[2].split())
    shares = [int(share) for share in re.findall(r"(\d+)%", told.partition("Everything")[0])]
    assert len(shares) >= 5
    # Those below one in a hundred are left out, and the others rounded.
    assert 80 <= sum(shares) <= 110


def test_the_table_compares_the_federation_with_its_statistics_and_baselines(
    finished: Finished,
) -> None:
    found = {(r.method, r.noise): r for r in finished.records(records.ResultRecord)}
    assert set(found) == {
        ("zero_shot", "none"),
        ("popularity", "none"),
        ("item_knn", "none"),
        ("by_itself", "none"),
        ("statistics", "own"),
        ("texts", "own"),
        ("federation", "own"),
        ("statistics", "none"),
        ("texts", "none"),
        ("federation", "none"),
    }
    assert {key for key, record in found.items() if record.private} == {
        ("statistics", "own"),
        ("texts", "own"),
        ("federation", "own"),
    }
    for label in ("Popularity", "Federation", "Item-kNN"):
        assert label in finished.screen


def test_examples_recommend_unseen_items_only(finished: Finished) -> None:
    examples = finished.records(records.ExampleRecord)
    assert [example.organisation for example in examples] == ["org-1", "org-2"]
    for example in examples:
        titles = [item.title for item in example.recommended]
        assert len(titles) == 10
        assert not set(titles) & set(example.recent)


def test_the_report_is_a_page_of_this_run(finished: Finished) -> None:
    page = (finished.folder / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "org-1" in page
    assert "org-2" in page


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_was(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not empty; give another --out, or --resume"):
        run(make_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_taken(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(run={"noise_free_twin": False}, training={"rounds": 0})
    assert run(config, tmp_path).records(records.DatasetRecord)


def test_an_out_that_is_a_file_is_refused_with_a_sentence(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunError, match="out"):
        run(make_config(), tmp_path / "out")


def test_a_finished_run_can_be_resumed_and_spends_nothing(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    first = run(make_config(), tmp_path / "run")
    adapter = (first.folder / "adapter" / "adapter_model.safetensors").read_bytes()
    events = []
    for ledger in open_ledgers(first.folder):
        with ledger:
            events.append(ledger.events())
    again = run(load_config(first.folder / "config.toml"), first.folder, resume=True)
    assert (again.folder / "adapter" / "adapter_model.safetensors").read_bytes() == adapter
    for ledger, before in zip(open_ledgers(first.folder), events, strict=True):
        with ledger:
            assert ledger.events() == before
            assert sum(release.intent > 0 for release in ledger.releases()) == 4
    assert "Federation" in again.screen


def test_another_configuration_is_refused_on_resume(
    finished: Finished, make_config: MakeConfig
) -> None:
    changed = make_config(privacy={"epsilon": 1.0})
    with pytest.raises(RunError, match="another configuration"):
        run(changed, finished.folder, resume=True)


def test_a_folder_without_a_run_cannot_be_resumed(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        run(make_config(), tmp_path, resume=True)


def test_bad_data_leaves_no_run_folder_behind(make_config: MakeConfig, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "interactions.csv").write_text("user,item,time\nu1,i1,yesterday\n")
    (bad / "items.csv").write_text("item,title\ni1,One\n")
    with pytest.raises(DataError):
        run(make_config(data={"source": str(bad)}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_after_bad_data_only_the_configuration_is_in_the_run_folder(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(partition={"organisations": 500})
    with pytest.raises(ConfigError):
        run(config, tmp_path / "out")
    left = [path.name for path in (tmp_path / "out").rglob("*")]
    assert set(left) <= {"config.toml"}


def test_a_partition_by_column_that_gives_another_number_says_which(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(partition={"scheme": "column:organisation", "organisations": 5})
    with pytest.raises(ConfigError, match=r"set partition\.organisations = 2"):
        run(config, tmp_path / "out")


def test_noise_from_a_seed_is_marked_not_private_everywhere(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(privacy={"noise_seed": 3}, run={"noise_free_twin": False})
    found = run(config, tmp_path / "run")
    assert NOT_PRIVATE in (found.folder / "adapter" / "README.md").read_text()
    delivered = houses(found.folder)[1] / "delivered" / "adapter" / "README.md"
    assert NOT_PRIVATE in delivered.read_text()
    (guarantee,) = found.records(records.GuaranteeRecord)
    assert not guarantee.private
    assert not any(record.private for record in found.records(records.ResultRecord))
    for ledger in open_ledgers(found.folder):
        with ledger:
            assert not ledger.private()


def test_two_private_runs_of_one_seed_do_not_share_their_noise(
    make_config: MakeConfig, world: World, tmp_path: Path
) -> None:
    config = make_config(training={"rounds": 1}, server={"optimizer": "average"})
    one, two = (federate(world, config, tmp_path / name, name) for name in ("a", "b"))
    assert one.adapter is not None
    assert two.adapter is not None
    for name, value in one.adapter.items():
        assert not np.any((two.adapter[name] == value) & (value != 0.0))
    assert not np.any(one.statistics.log_popularity == two.statistics.log_popularity)


def test_without_rounds_the_statistics_alone_are_delivered(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    found = run(make_config(training={"rounds": 0}), tmp_path / "run")
    delivered = houses(found.folder)[0] / "delivered"
    names = sorted(path.name for path in delivered.iterdir())
    assert names == ["settings.json", "statistics.safetensors"]
    methods = {record.method for record in found.records(records.ResultRecord)}
    assert "statistics" in methods
    assert "federation" not in methods


def test_shared_noise_is_said_to_be_a_simulation(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(privacy={"noise": "shared"}, run={"noise_free_twin": False})
    found = run(config, tmp_path / "run")
    assert "simulation of a trusted sum" in (found.folder / "adapter" / "README.md").read_text()
    assert "noise once, simulated" in found.screen


def test_synthetic_data_is_made_inside_the_run_folder(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(
        data={"source": "synthetic", "synthetic_users": 40, "synthetic_items": 50},
        training={"rounds": 1},
        run={"noise_free_twin": False},
    )
    found = run(config, tmp_path / "run")
    assert (found.folder / "synthetic" / "interactions.parquet").exists()
    (dataset,) = found.records(records.DatasetRecord)
    assert (dataset.users, dataset.items) == (40, 50)


def _plan_sha256(path: Path) -> str:
    return str(json.loads(path.read_text())["sha256"])


def test_generated_data_says_that_nothing_in_it_is_real(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(
        data={"source": "synthetic", "synthetic_users": 40, "synthetic_items": 60},
        partition={"organisations": 2},
    )
    made = build_world(config, tmp_path)
    assert made.dataset.name == "synthetic"
    assert any("nothing in them is real" in notice for notice in made.dataset.notices)
