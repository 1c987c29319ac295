"""An organisation's own data: whether it can be used, and bringing it up to date."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from client.data.address import is_address
from client.data.formats import SourceFile, SourceQuery
from client.data.imports import Refreshed, import_store, refresh_store
from client.data.sources import opened
from client.data.store import count_users, read_facts, read_store
from client.data.tables import Progress
from client.directory import read_policy
from client.outcomes import FAILED, OK, SKIPPED, WARNING, Outcome, judged
from client.settings import AgentSettings, settings_path
from shared.errors import DataError, TacitError
from shared.words import plural

STORE = "histories.duckdb"
# A declared size further off than that weighs the organisation far too much or too little.
DECLARED_FACTOR = 2


def data_outcomes(directory: Path, settings: AgentSettings, quick: bool) -> Iterator[Outcome]:
    """Outcomes for the data.

    Args:
        directory: of the organisation.
        settings: its ``agent.toml``.
        quick: ask no database and fetch nothing.
    """
    cure = f"tacit client refresh {directory} --whole"
    yield judged("data", lambda: store(directory), cure)
    yield source(directory, settings, quick)


def store(directory: Path) -> Outcome:
    """Whether the histories can be read, and are as many as declared.

    Raises:
        DataError: if they cannot be read.
    """
    catalogue, histories = read_store(directory / STORE)
    users = len(histories)
    sentence = (
        f"{plural(users, 'user')}, {plural(len(catalogue), 'item')}, "
        f"{plural(len(histories.items), 'interaction')}"
    )
    warned = far_off(read_policy(directory).organisation.declared_users, users)
    if warned:
        return Outcome("data", WARNING, f"{sentence}; {warned}")
    return Outcome("data", OK, sentence)


def source(directory: Path, settings: AgentSettings, quick: bool) -> Outcome:
    """Whether the source can be reached; of files, whether they are newer than the store."""
    name, options = "data source", settings.data
    remote = any(map(is_address, (options.source, options.interactions, options.items)))
    if remote and quick:
        return Outcome(name, SKIPPED, "not asked", "leave --quick out to ask it")
    try:
        with opened(options) as found:
            parts = (found.interactions, found.items)
            for part in parts:
                _try_query(part)
            newest = 0.0 if remote else max(map(_changed_at, parts))
    except TacitError as error:
        return Outcome(name, FAILED, str(error), "mend [data] in agent.toml, or the source")
    if newest > (directory / STORE).stat().st_mtime:
        at = datetime.fromtimestamp(newest, UTC).isoformat(timespec="minutes")
        return Outcome(
            name,
            WARNING,
            f"{options.source} was changed after it was read ({at})",
            f"tacit client refresh {directory}",
        )
    known = "" if remote else "; nothing in it is newer"
    return Outcome(name, OK, f"{options.source} can be read{known}")


def far_off(declared: int, users: int) -> str:
    """What is wrong with a declared size, as a sentence; empty if it is near enough.

    Args:
        declared: in the policy; public.
        users: that there are. Private.
    """
    if declared > DECLARED_FACTOR * users or users > DECLARED_FACTOR * declared:
        return (
            f"{declared} users are declared, there are {users}: the declared size is public, "
            "weighs this organisation's updates and divides its sums; declare a round figure near "
            "the true one"
        )
    return ""


def refreshed(directory: Path, whole: bool, progress: Progress) -> Iterable[str]:
    """Bring the store up to date from its source, and say what has changed.

    Args:
        directory: of the organisation.
        whole: read everything anew, also where the store can no longer be read.
        progress: told in words how far it is.

    Raises:
        TacitError: if the source or the store cannot be used; then nothing is changed.
    """
    path, policy = directory / STORE, read_policy(directory)
    options = AgentSettings.load(settings_path(directory)).data
    if whole and not _readable(path):
        found = import_store(path, policy.organisation.name, options, progress)
        yield "The store could not be read and was made anew from the source."
        users = found.users
    else:
        done = refresh_store(path, options, whole, progress)
        yield from _said(done)
        users = count_users(path)
    warned = far_off(policy.organisation.declared_users, users)
    if warned:
        yield f"Warning: {warned}."
    yield "A running agent uses it from the next run on."


def _said(done: Refreshed) -> Iterator[str]:
    yield "The whole source was read." if done.whole else "What is new in the source was read."
    yield (
        f"New: {plural(done.new_interactions, 'interaction')}, {plural(done.new_users, 'user')}, "
        f"{plural(done.new_items, 'item')}. Gone: "
        f"{plural(done.gone_interactions, 'interaction')}, {plural(done.gone_users, 'user')}, "
        f"{plural(done.gone_items, 'item')}."
    )
    if done.short_users:
        yield f"Left out: {plural(done.short_users, 'user')} with too short a history."


def _readable(path: Path) -> bool:
    try:
        read_facts(path)
        read_store(path)
    except DataError:
        return False
    return True


def _try_query(part: SourceFile | SourceQuery) -> None:
    if isinstance(part, SourceQuery):
        # No row: a query that cannot be run shows all the same.
        part.database.read(f"SELECT * FROM (\n{part.sql}\n) AS tacit_source WHERE 1 = 0")


def _changed_at(part: SourceFile | SourceQuery) -> float:
    if isinstance(part, SourceQuery):
        return 0.0
    inside: Iterable[Path] = part.path.rglob("*") if part.path.is_dir() else ()
    return max(path.stat().st_mtime for path in (part.path, *inside))
