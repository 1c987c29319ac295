"""Tables of options read from TOML: refused with a sentence, printed with their meaning."""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import TacitError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A table of a TOML file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def read_toml(path: Path, error: type[TacitError]) -> dict[str, Any]:
    """The values of a TOML file.

    Raises:
        TacitError: of the class ``error``, if it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as found:
        raise error(f"{path}: cannot be read ({found.strerror})") from found
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as found:
        raise error(f"{path}: not TOML: {found}") from found


def to_toml(tables: Section, above: bool = False) -> str:
    """Sections of a model as TOML, each key with its meaning as a comment.

    Args:
        tables: the model.
        above: comments on lines of their own, for files that people write; otherwise behind.
    """
    document = tomlkit.document()
    for name in type(tables).model_fields:
        section: Section = getattr(tables, name)
        table = tomlkit.table()
        table.comment((type(section).__doc__ or "").splitlines()[0])
        for key, option in type(section).model_fields.items():
            value = getattr(section, key)
            if value is None:
                continue
            entry = tomlkit.item(list(value) if isinstance(value, tuple) else value)
            if above:
                table.add(tomlkit.comment(option.description or ""))
            else:
                entry.comment(option.description or "")
            table.add(key, entry)
        document.add(name, table)
    return tomlkit.dumps(document)


def sentence(error: ValidationError, model: type[Section]) -> str:
    """What is wrong with each key; an unknown one with the nearest that ``model`` has."""
    problems = []
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        name = ".".join(place)
        if detail["type"] == "extra_forbidden":
            problems.append(f"unknown key {name}; did you mean {_nearest(place, model)}?")
        else:
            found = (
                ""
                if isinstance(detail["input"], dict | Section)
                else f", found {detail['input']!r}"
            )
            message = detail["msg"].removeprefix("Value error, ")
            place_of_it = f"{name}: " if name else ""
            problems.append(f"{place_of_it}{message[0].lower()}{message[1:]}{found}")
    return "; ".join(problems)


def _nearest(place: list[str], model: type[Section]) -> str:
    names = {
        f"{section}.{key}": key
        for section, field in model.model_fields.items()
        for key in (field.annotation.model_fields if field.annotation else {})
    }
    if len(place) == 1:
        sections = difflib.get_close_matches(place[0], model.model_fields, n=1, cutoff=0.0)
        return f"[{sections[0]}]"
    elsewhere = [name for name, key in names.items() if key == place[-1]]
    if elsewhere:
        return elsewhere[0]
    same_section = [n for n in names if n.startswith(place[0] + ".")]
    close = difflib.get_close_matches(".".join(place), same_section, n=1, cutoff=0.7)
    if not close:
        close = difflib.get_close_matches(place[-1], list(names.values()), n=1, cutoff=0.6)
        close = [n for n, key in names.items() if close and key == close[0]][:1]
    return close[0] if close else same_section[0]
