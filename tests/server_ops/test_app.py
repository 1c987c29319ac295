"""The Flower app of a run: what is sent, and that it carries the whole configuration."""

import tomllib
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import flatten_dict

from server.ops.folder import Folder, join_address, split_address
from server.ops.submit import build_app, resume, submit
from shared.config import Config, from_run_config, load_config
from shared.errors import ConfigError, FederationError, RunError

LARGEST_BUNDLE = 10 * 1024 * 1024


@pytest.fixture
def app(folder: Folder) -> Path:
    return build_app(folder, folder.run("first"), changed())


def changed() -> Config:
    options = ["model.targets=['query', 'key']", "training.rounds=7", "privacy.epsilon=3.5"]
    return load_config(None, options)


def run_config(app: Path) -> dict[str, object]:
    document = tomllib.loads((app / "pyproject.toml").read_text())
    return dict(flatten_dict(document["tool"]["flwr"]["app"]["config"]))


def test_the_configuration_arrives_as_it_was_given(app: Path) -> None:
    assert from_run_config(run_config(app)) == changed()


def test_the_server_is_told_where_its_files_are(app: Path, folder: Folder) -> None:
    values = run_config(app)
    assert values["tacit.directory"] == str(folder.run("first"))
    assert values["tacit.run"] == "first"
    assert values["tacit.server"] == str(folder.server)


def test_flower_bundles_the_three_packages_and_nothing_else(app: Path) -> None:
    bundle = build_fab_from_disk(app)
    assert len(bundle) < LARGEST_BUNDLE
    with zipfile.ZipFile(BytesIO(bundle)) as archive:
        names = archive.namelist()
    assert {"server/app.py", "client/app.py", "shared/config.py"} <= set(names)
    packages = {name.partition("/")[0] for name in names if "/" in name}
    assert packages - {".info"} == {"client", "server", "shared"}


def test_no_run_turns_an_organisations_own_pairs_on(folder: Folder) -> None:
    turned_on = load_config(None, ["personalisation.own_cooccurrence=1"])
    with pytest.raises(ConfigError, match=r"own choice.*agent\.toml"):
        submit(folder, turned_on, "first", 0.0, print)
    assert not folder.run("first").exists()


def test_an_app_that_is_built_again_holds_nothing_of_the_one_before(
    app: Path, folder: Folder
) -> None:
    (app / "server" / "old.py").write_text("")
    build_app(folder, folder.run("first"), changed())
    assert not (app / "server" / "old.py").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a b", "x" * 65, "a\n"])
def test_a_name_that_is_no_folders_is_refused(folder: Folder, name: str) -> None:
    with pytest.raises(RunError, match="cannot name a run"):
        folder.run(name)


def test_noise_that_exists_in_simulation_only_is_refused(folder: Folder) -> None:
    simulated = load_config(None, ["privacy.noise=shared", "aggregation.mode=plain"])
    with pytest.raises(ConfigError, match=r"set aggregation\.mode=secure or privacy\.noise=own"):
        submit(folder, simulated, "first", 0.0, print)


def test_noise_that_is_shared_under_masks_goes_on_to_the_superlink(folder: Folder) -> None:
    masked = load_config(None, ["privacy.noise=shared", "aggregation.mode=secure"])
    with pytest.raises(FederationError, match="does not answer"):
        submit(folder, masked, "first", 0.0, print)


def test_a_run_that_does_not_exist_is_not_resumed(folder: Folder) -> None:
    with pytest.raises(RunError, match="no run 'first'; it has: none"):
        resume(folder, "first", 0.0, print)


def test_a_run_without_a_plan_is_not_resumed(folder: Folder) -> None:
    directory = folder.run("first")
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text("")
    with pytest.raises(RunError, match="before it had a plan"):
        resume(folder, "first", 0.0, print)


def test_a_finished_run_is_not_resumed(folder: Folder) -> None:
    directory = folder.run("first")
    directory.mkdir(parents=True)
    (directory / "config.toml").write_text("")
    (directory / "plan.json").write_text("{}")
    (directory / "progress.jsonl").write_text('{"event": "finished"}\n')
    with pytest.raises(RunError, match="has finished"):
        resume(folder, "first", 0.0, print)


@pytest.mark.parametrize(
    ("host", "port", "address"),
    [("127.0.0.1", 9092, "127.0.0.1:9092"), ("::1", 1, "[::1]:1"), ("x.org", 2, "x.org:2")],
)
def test_addresses_are_read_as_they_are_written(host: str, port: int, address: str) -> None:
    assert join_address(host, port) == address
    assert split_address(address) == (host, port)


@pytest.mark.parametrize("address", ["x.org", "x.org:", ":1", "x.org:99999", "[::1", "x:y"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(RunError, match="HOST:PORT"):
        split_address(address)
