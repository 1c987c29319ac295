"""Templates of self-contained HTML pages: escaped, strict, with numbers in words."""

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import jinja2

from shared import words


def page_environment(
    folder: Path, own_words: ModuleType, filters: Iterable[str]
) -> jinja2.Environment:
    """Where a page's template is found, and how it writes numbers.

    Args:
        folder: of the template.
        own_words: module of the page's own words.
        filters: each names a function ``NAME_text`` of ``shared.words`` or of the page's own.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    known = vars(words) | vars(own_words)
    environment.filters |= {name: known[f"{name}_text"] for name in filters}
    environment.filters["plural"] = words.plural
    return environment
