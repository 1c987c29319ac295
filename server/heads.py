"""The server's memory of ledgers: every head that came with a reply, countersigned and kept.

A ledger whose end was deleted or rolled back no longer holds a record that the server has seen; an
organisation that begins a second ledger under its key is seen too.
"""

import json
from pathlib import Path

from shared.chain import Anchor, Head, canonical, countersign, parse_head
from shared.errors import FederationError, PrivacyError, RunError
from shared.keys import SigningKey
from shared.messages import Reply
from shared.stages import stage


class HeadBook:
    """Heads of all organisations, in ``heads.jsonl`` beside the server's key.

    Args:
        directory: of the server's own files; made if it is not there.

    Raises:
        RunError: if the file cannot be read back.
    """

    def __init__(self, directory: Path) -> None:
        self.key = SigningKey.load_or_create(directory / "server.pem")
        self.path = directory / "heads.jsonl"
        self._latest: dict[str, Head] = {}
        self._of_node: dict[int, Anchor] = {}
        if self.path.exists():
            self._read()

    def see(self, reply: Reply, run: str) -> None:
        """Countersign and keep the head of a reply; a reply without one is passed over.

        Raises:
            FederationError: if the head is not signed by its key, or contradicts what was seen.
        """
        head = reply.head
        if head is None:
            return
        try:
            with stage("signatures"):
                anchor = countersign(head, run, self.key)
        except PrivacyError as error:
            raise FederationError(f"{reply.name}: {error}") from error
        line = canonical(
            {
                "head": vars(head),
                "anchor": vars(anchor),
                "name": reply.name,
                "declared_users": reply.declared_users,
                "run": run,
            }
        )
        with stage("files"), self.path.open("a") as file:
            file.write(line + "\n")
        # Written down first: a signed head that contradicts another is the proof of it.
        known = self._latest.get(head.key)
        if known is not None:
            self._compare(reply.name, head, known)
        self._latest[head.key] = head
        self._of_node[reply.node] = anchor

    def anchor_for(self, node: int) -> Anchor | None:
        """The signature under the last head that came from a node in this run."""
        return self._of_node.get(node)

    def _compare(self, name: str, head: Head, known: Head) -> None:
        if head.ledger != known.ledger:
            raise FederationError(
                f"{name}: has begun another ledger under the same key; what it spent before is not "
                "in it. The organisation must restore the one it had"
            )
        forked = head.sequence == known.sequence and head.sha256 != known.sha256
        if head.sequence < known.sequence or forked:
            raise FederationError(
                f"{name}: its ledger is at record {head.sequence}, but record {known.sequence} was "
                "seen before: it was rolled back. The organisation must restore its newest copy"
            )

    def _read(self) -> None:
        for number, line in enumerate(self.path.read_text().splitlines(), start=1):
            try:
                value = json.loads(line)
                head = parse_head(canonical(value["head"]))
                anchor = Anchor.from_json(canonical(value["anchor"]))
            except (ValueError, KeyError, TypeError, PrivacyError) as error:
                raise RunError(
                    f"{self.path}: line {number} is no head that this server has seen ({error}); "
                    "restore the file"
                ) from error
            if not (head.genuine() and self._signed(anchor, head)):
                raise RunError(
                    f"{self.path}: line {number} is no head under this server's signature; restore "
                    "the file and the key beside it"
                )
            # A head that contradicts what came before was refused and is here as the proof.
            known = self._latest.get(head.key)
            if known is None or (head.ledger == known.ledger and head.sequence > known.sequence):
                self._latest[head.key] = head

    def _signed(self, anchor: Anchor, head: Head) -> bool:
        signed = (anchor.server_key, anchor.ledger, anchor.sequence, anchor.sha256)
        return signed == (self.key.public, head.ledger, head.sequence, head.sha256)
