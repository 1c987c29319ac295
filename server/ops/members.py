"""The organisations that have answered this federation, and the public keys of their ledgers."""

import json
from dataclasses import dataclass

from server.ops.folder import Folder
from shared.chain import canonical, parse_head
from shared.errors import PrivacyError, RunError


@dataclass(frozen=True)
class Member:
    """An organisation as the server has met it.

    Attributes:
        name: that it gave.
        key: public key that signed its ledger, 64 hexadecimal digits.
    """

    name: str
    key: str


def members(folder: Folder) -> list[Member]:
    """Every name under every key that was seen, by name; each once.

    An organisation whose policy lets no ``ledger_head`` leave is not among them.

    Raises:
        RunError: if the server's record of ledgers cannot be read.
    """
    path = folder.server / "heads.jsonl"
    found = set()
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), start=1):
        try:
            value = json.loads(line)
            head = parse_head(canonical(value["head"]))
            found.add((str(value["name"]), head.key))
        except (ValueError, KeyError, TypeError, PrivacyError) as error:
            raise RunError(
                f"{path}: line {number} is no head of a ledger ({error}); restore the file"
            ) from error
        if not head.genuine():
            raise RunError(
                f"{path}: line {number} is not signed by the key that it names; restore the file"
            )
    return [Member(name, key) for name, key in sorted(found)]
