"""Letting a federation ask, or no longer: the policy's file and the ledger, changed together."""

from collections.abc import Sequence
from pathlib import Path

import tomlkit

from client.directory import key_path, read_policy, read_population
from client.ledger import amended, policy_in_force
from shared.chain import read_sealed
from shared.errors import PrivacyError, TacitError
from shared.files import atomic_path
from shared.keys import SigningKey
from shared.policy import Policy


def approve(
    directory: Path,
    federations: Sequence[str] = (),
    plans: Sequence[str] = (),
    remove: bool = False,
    members: Sequence[str] = (),
) -> str:
    """Add federations, plans and members to those that the policy allows, or take them away.

    The changed policy is checked, replaces ``policy.toml`` with its comments, and goes on record in
    the ledger. A running agent takes it up from there. When the ledger refuses it, the file is what
    it was.

    Args:
        directory: of the organisation.
        federations: public keys of servers, 64 hexadecimal digits each.
        plans: hashes of privacy plans, or 8 or more of their first digits.
        remove: take away instead of adding.
        members: public keys of organisations that count in a secure sum, of the same form. With the
            first one comes the organisation's own, and with the last one it goes.

    Returns:
        Every rule that has changed, as text; empty where nothing has.

    Raises:
        PrivacyError: if the policy would not be valid, has changes that are not on record, does not
            have what is to be taken away, or the ledger cannot be used.
    """
    path, ledger = directory / "policy.toml", directory / "ledger.sqlite"
    before = read_policy(directory)
    _refuse_unrecorded(directory, before)
    key = SigningKey.load_or_create(key_path(directory))
    document = tomlkit.parse(path.read_text())
    changed = False
    for section, name, values in (
        ("federations", "allowed", federations),
        ("federations", "plans", plans),
        ("trust", "members", members),
    ):
        present = list(getattr(getattr(before, section), name))
        wanted = [value.strip().lower() for value in values]
        left = _without(present, wanted, path) if remove else [*present, *_new(wanted, present)]
        if name == "members" and wanted:
            left = _with_own(left, wanted, key.public, remove)
        if left != present:
            document.setdefault(section, tomlkit.table())[name] = left
            changed = True
    if not changed:
        return ""
    policy = Policy.from_values(document.unwrap(), f"{path}, as it would be")
    old = path.read_bytes()
    # The file first: an agent that sees the new record finds the file that goes with it.
    _replace(path, tomlkit.dumps(document).encode())
    try:
        return amended(ledger, policy, key, read_population(directory))
    except (TacitError, OSError):
        _replace(path, old)
        raise


def public_key(directory: Path) -> str:
    """The organisation's own public key, 64 hexadecimal digits; the others name it as a member."""
    return SigningKey.load_or_create(key_path(directory)).public


def _refuse_unrecorded(directory: Path, policy: Policy) -> None:
    recorded = policy_in_force(read_sealed(directory / "ledger.sqlite"))
    if recorded != policy:
        raise PrivacyError(
            f"{directory / 'policy.toml'}: has changes that are not on record: "
            f"{policy.differences(recorded)}. Undo them, or put them on record first: tacit policy "
            f"amend {directory}"
        )


def _new(wanted: list[str], present: list[str]) -> list[str]:
    return [value for value in dict.fromkeys(wanted) if value not in present]


def _without(present: list[str], wanted: list[str], path: Path) -> list[str]:
    missing = [value for value in wanted if value not in present]
    if missing:
        raise PrivacyError(
            f"{path}: does not allow {', '.join(missing)}; it allows "
            f"{', '.join(present) or 'none by name'}"
        )
    return [value for value in present if value not in wanted]


def _with_own(members: list[str], wanted: list[str], own: str, remove: bool) -> list[str]:
    """Members with the own key, which stands there exactly as long as others do."""
    others = [member for member in members if member != own]
    if remove and own in wanted and others:
        raise PrivacyError(
            "approve: this organisation's own key stays as long as it names others, for it is in "
            "each of its sums; take those away instead"
        )
    return [own, *others] if others else []


def _replace(path: Path, content: bytes) -> None:
    mode = path.stat().st_mode & 0o777
    with atomic_path(path) as temporary:
        temporary.touch(mode=mode)
        temporary.write_bytes(content)
