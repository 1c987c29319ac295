"""Command-line options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set any option.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with options.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the rows as JSON.")
]
DataSource = Annotated[
    str | None, typer.Option("--data", help="movielens-100k, synthetic, or a path to files.")
]
WarmStart = Annotated[
    str | None, typer.Option("--warm-start", help="Directory made by tacit pretrain.")
]
BaseName = Annotated[
    str | None, typer.Option("--base", help="minilm, smollm2, a directory or a hub id.")
]
AggregationMode = Annotated[
    str | None, typer.Option("--aggregation", help="secure or plain: what the server gets.")
]
