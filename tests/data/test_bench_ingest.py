"""The measurement of imports, on a source so small that only its form counts."""

import json
from pathlib import Path

from typer.testing import CliRunner

from simulations.bench.cli import bench_app
from tests.data.postgres import Postgres


def test_every_source_is_imported_and_refreshed(postgres: Postgres, tmp_path: Path) -> None:
    options = ["--interactions", "1000", "--postgresql", postgres.source]
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(bench_app, ["ingest", *options, "--json", str(file)])
    assert result.exit_code == 0, result.output
    rows = json.loads(file.read_text())["rows"]
    assert [(row["source"], row["task"], row["interactions"]) for row in rows] == [
        (source, task, 1000)
        for source in ("CSV", "Parquet", "PostgreSQL")
        for task in ("import", "refresh")
    ]
    assert all(row["peak_mb"] > 0 for row in rows)
