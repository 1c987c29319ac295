"""Options of the commands that recommend, and the query that they make."""

from pathlib import Path
from typing import Annotated

import typer

from client.recommend.filters import parse_filter
from client.recommend.query import Mode, Query

User = Annotated[str, typer.Option(help="The organisation's identifier of a user.")]
Length = Annotated[int, typer.Option("-k", min=1, help="Length of the list.")]
Need = Annotated[str | None, typer.Option(help="What is wanted now, in words.")]
Interest = Annotated[
    list[str] | None, typer.Option("--interest", help="A lasting interest, in words; repeatable.")
]
ModeOption = Annotated[
    Mode, typer.Option(help="behaviour: what people had; content: texts; hybrid: both; generative.")
]
FilterOption = Annotated[
    list[str] | None,
    typer.Option("--filter", help="COLUMN=TERM|TERM, COLUMN>=NUMBER, COLUMN<=NUMBER; repeatable."),
]
Diversity = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="0: off; more: less alike, less relevant.")
]
Damping = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="0: off; 1: popularity does not count.")
]
Seen = Annotated[bool, typer.Option("--seen", help="Recommend what the user has had, too.")]
Reasons = Annotated[bool, typer.Option("--reasons", help="Say what carried each line.")]
Writer = Annotated[
    str,
    typer.Option(
        help="Causal language model that writes sentences: smollm2, a directory, or templates for "
        "none; default: smollm2 where its package is installed."
    ),
]
Out = Annotated[Path, typer.Option(help="Parquet file to write.")]


def query_of(
    k: int,
    need: str | None,
    interests: list[str] | None,
    mode: Mode,
    filters: list[str] | None,
    diversity: float,
    popularity_damping: float,
    seen: bool,
) -> Query:
    """The query of a command line.

    Raises:
        ConfigError: if a filter has no such form.
    """
    return Query(
        k=k,
        need=need,
        interests=tuple(interests or ()),
        exclude_seen=not seen,
        filters=tuple(parse_filter(text) for text in filters or ()),
        mode=mode,
        diversity=diversity,
        popularity_damping=popularity_damping,
    )
