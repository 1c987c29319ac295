"""Where the agent's user and the SuperNode's meet: the socket, and two folders that lie apart."""

import grp
import os
from pathlib import Path

import httpx

from client.code import code_version
from client.directory import read_policy
from client.node_key import load_node_key, node_key_path
from client.outcomes import FAILED, OK, SKIPPED, WARNING, Outcome
from client.settings import AgentSettings, settings_path, socket_path
from shared.errors import RunError

HEALTH_S = 5.0


def socket_place(directory: Path, settings: AgentSettings) -> Outcome:
    """Whether this user can make the agent's socket, and hand it to the group that is named.

    Raises:
        ConfigError: if the socket's path is too long.
    """
    name, path, group = "socket", socket_path(directory, settings), settings.agent.socket_group
    folder = next(above for above in path.parents if above.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        return Outcome(
            name,
            FAILED,
            f"this user cannot write to {folder}, where {path.name} is to be",
            f"run this as the user of the agent, or set agent.socket in {settings_path(directory)}",
        )
    if group:
        try:
            number = grp.getgrnam(group).gr_gid
        except KeyError:
            return Outcome(
                name,
                FAILED,
                f"this machine has no group {group}",
                f"groupadd {group}, or set agent.socket_group in {settings_path(directory)}",
            )
        if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
            return Outcome(
                name,
                FAILED,
                f"this user is not in group {group}, to which the socket is to be handed",
                f"usermod -aG {group} USER, and log in anew",
            )
    return Outcome(name, OK, f"the agent can listen at {path}")


def agent_answers(directory: Path, settings: AgentSettings) -> Outcome:
    """Whether the agent listens, and is this organisation's and of this version.

    Raises:
        ConfigError: if the socket's path is too long.
        RunError: if the organisation cannot be read.
    """
    name = "agent"
    path = socket_path(directory, settings)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=HEALTH_S) as client:
            health = client.get("http://agent/v1/health").json()
        organisation, code = str(health["name"]), str(health["code"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return Outcome(
            name,
            WARNING,
            f"no agent answers at {path} ({type(error).__name__})",
            f"start it: tacit client agent {directory}",
        )
    expected = read_policy(directory).organisation.name
    if organisation != expected:
        return Outcome(
            name,
            FAILED,
            f"the agent at {path} is {organisation}'s, not {expected}'s",
            "set agent.socket to another path in one of the two",
        )
    if code != code_version():
        return Outcome(
            name, WARNING, f"the agent runs {code}, installed is {code_version()}", "restart it"
        )
    return Outcome(name, OK, f"the agent answers at {path}")


def node_folder(directory: Path, node: Path) -> Outcome:
    """Whether the SuperNode's folder is apart from the organisation's, and has its key."""
    name, here, there = "SuperNode", directory.resolve(), node.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        return Outcome(
            name,
            FAILED,
            f"{node} and {directory} lie one in the other: the SuperNode's user would have to be "
            "let into the organisation's folder",
            "move one of them, and give --node",
        )
    key = node_key_path(node)
    try:
        found = key.stat()
        load_node_key(node)
    except PermissionError:
        return Outcome(
            name,
            SKIPPED,
            f"{node} belongs to another user, as it should",
            f"tacit client node {node} checks it as that user",
        )
    except (OSError, RunError) as error:
        return Outcome(
            name,
            FAILED,
            f"{key}: cannot be used as the SuperNode's key ({error})",
            "give --node FOLDER, or restore the key; a new one must be registered anew",
        )
    if found.st_mode & 0o077:
        return Outcome(
            name, FAILED, f"other users of this machine can read {key}", f"chmod 600 {key}"
        )
    if found.st_uid != node.stat().st_uid:
        return Outcome(
            name,
            FAILED,
            f"{key} and {node} belong to different users",
            f"chown -R the SuperNode's user: {node}",
        )
    return Outcome(name, OK, f"{key} is an ECDSA P-384 key that only its owner can read")
