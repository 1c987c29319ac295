"""Every tacit command in units, compose file, manifests and READMEs is one that tacit has."""

import re
import shlex
from collections.abc import Iterator
from itertools import groupby, pairwise
from pathlib import Path

import click
import pytest
import typer

from simulations.cli import app
from tests.deploy_files.reading import DEPLOY, FOLDERS, UNITS, compose, directives, pod

PAGES = sorted(DEPLOY.rglob("README.md"))
OPERATORS = {"|", "&&", ";", "<", ">"}
SERVICES = compose()["services"]
IMAGE = SERVICES["agent"]["image"]
PLACEHOLDER = "a" * 64


def of_units() -> Iterator[tuple[str, list[str]]]:
    """Arguments of tacit in every unit, with the settings of its environment file in place."""
    for path in UNITS:
        found = directives(path)
        settings = directives(DEPLOY / "systemd/etc" / Path(found["EnvironmentFile"][0]).name)
        line = found["ExecStart"][0]
        for name, value in settings.items():
            line = line.replace(f"${{{name}}}", value[-1])
        program, *arguments = shlex.split(line)
        assert Path(program).name == "tacit"
        yield path.name, arguments


def of_containers() -> Iterator[tuple[str, list[str]]]:
    """Arguments of tacit in the compose file and the manifests; the image's entrypoint is tacit."""
    for name, service in SERVICES.items():
        default = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in service["command"]]
        yield f"compose.yaml {name}", default
    for folder in FOLDERS:
        for container in pod(folder)["containers"]:
            words = [re.sub(r"\$\(\w+\)", "a.example:9092", word) for word in container["args"]]
            yield f"kubernetes {container['name']}", words


def of_pages() -> Iterator[tuple[str, list[str]]]:
    """Arguments of tacit in every command of a README's shell blocks."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for words in simple_commands(line):
                    arguments = tacit_arguments(words)
                    if arguments is not None:
                        yield f"{page.parent.name}: {' '.join(arguments)}", arguments


def simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each command of a line of shell."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    for operator, words in groupby(reader, lambda word: word in OPERATORS):
        if not operator:
            yield list(words)


def tacit_arguments(words: list[str]) -> list[str] | None:
    """The arguments of tacit in one shell command; None where it does not call tacit."""
    own_entry = "--entrypoint" in words
    for before, word in pairwise(words):
        here = before == "tacit" or Path(before).name == "tacit"
        # The image's entrypoint is tacit.
        in_container = words[0] == "docker" and "run" in words and not own_entry
        of_image = before in SERVICES or before.endswith(IMAGE)
        if word in GROUPS and (here or (in_container and of_image)):
            return words[words.index(word, words.index(before)) :]
    return None


TACIT = typer.main.get_command(app)
assert isinstance(TACIT, click.Group)
GROUPS = set(TACIT.commands)
COMMANDS = [*of_units(), *of_containers(), *of_pages()]


@pytest.mark.parametrize(("where", "arguments"), COMMANDS, ids=[one for one, _ in COMMANDS])
def test_tacit_has_the_command(where: str, arguments: list[str]) -> None:
    command: click.Command = TACIT
    name = "tacit"
    rest = [re.sub(r"^KEY$", PLACEHOLDER, word) for word in arguments]
    while isinstance(command, click.Group):
        name = rest.pop(0)
        assert name in command.commands, f"{where}: tacit has no {name!r}"
        command = command.commands[name]
    command.make_context(name, rest)


def test_the_pages_have_commands_from_an_empty_host_to_a_run() -> None:
    for page in PAGES:
        if page.parent == DEPLOY:
            continue
        own = [words for where, words in of_pages() if where.startswith(f"{page.parent.name}:")]
        typed = {" ".join(words[:2]) for words in own}
        assert {
            "client init",
            "client approve",
            "server certs",
            "server register",
            "server run",
        } <= typed, page


@pytest.mark.parametrize(
    "arguments",
    [["client", "agnet", "ORG"], ["client", "agent"], ["server", "start", "--prot", "1"]],
)
def test_a_command_that_tacit_lacks_would_be_found(arguments: list[str]) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        test_tacit_has_the_command("here", arguments)
