"""Running a command as an operating-system user who is not the organisation's.

The interpreter of the tests may lie where only root may go. The command then runs in a mount
namespace of its own, in which the closed folder is covered and the interpreter alone is put back.
"""

import grp
import pwd
import shlex
import sys
from pathlib import Path

USER = "nobody"
GROUPS = ("nogroup", "nobody")


def ids() -> tuple[int, int, str]:
    """User, group and the group's name: those of whom every system has."""
    for name in GROUPS:
        try:
            return pwd.getpwnam(USER).pw_uid, grp.getgrnam(name).gr_gid, name
        except KeyError:
            continue
    raise RuntimeError(f"this system has no user {USER} with a group {' or '.join(GROUPS)}")


def as_other_user(command: list[str], scratch: Path) -> list[str]:
    """The command line that runs ``command`` as that user.

    Args:
        command: to run.
        scratch: an existing folder, over which the interpreter is mounted.
    """
    user, group, _ = ids()
    change = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--"]
    interpreter = Path(sys.base_prefix).resolve()
    closed = _closed(interpreter)
    if closed is None:
        return [*change, *command]
    steps = [
        ["mount", "--bind", str(interpreter), str(scratch)],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(closed)],
        ["mkdir", "-p", str(interpreter)],
        ["mount", "--bind", str(scratch), str(interpreter)],
    ]
    script = " && ".join(shlex.join(step) for step in steps) + ' && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", *change, *command]


def _closed(path: Path) -> Path | None:
    """The uppermost folder on the way to ``path`` that others may not pass through."""
    for folder in [*reversed(path.parents), path]:
        if not folder.stat().st_mode & 0o001:
            return folder
    return None
