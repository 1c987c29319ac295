"""``tacit server members``: who has answered, under which ledger's key."""

from pathlib import Path

import pytest

from server.heads import HeadBook
from server.ops.folder import Folder
from server.ops.members import Member, members
from shared.chain import NOTHING_BEFORE, Head, Record, seal
from shared.errors import RunError
from shared.keys import SigningKey
from shared.messages import Reply
from tests.server_ops.operating import ended


def answer(folder: Folder, name: str, key: SigningKey, records: int = 1) -> None:
    """An organisation's replies, as far as the server keeps their heads."""
    book, previous, ledger = HeadBook(folder.server), NOTHING_BEFORE, ""
    for number in range(1, records + 1):
        kind = "open" if number == 1 else "refusal"
        sealed = seal(Record(number, previous, "", kind, None, {}), key)
        previous, ledger = sealed.sha256, ledger or sealed.sha256
        head = Head(ledger, key.public, number, sealed.sha256, sealed.signature)
        book.see(Reply(name, 10, 0, {}, node=1, head=head), "run")


def test_each_organisation_is_listed_once_with_its_ledgers_key(
    folder: Folder, tmp_path: Path
) -> None:
    keys = [SigningKey.load_or_create(tmp_path / f"{number}.pem") for number in range(2)]
    answer(folder, "west", keys[0], records=3)
    answer(folder, "east", keys[1])
    assert members(folder) == [Member("east", keys[1].public), Member("west", keys[0].public)]
    done = ended("members", str(folder.root))
    assert done.returncode == 0
    assert done.stdout == f"east\t{keys[1].public}\nwest\t{keys[0].public}\n"


def test_one_name_under_two_keys_is_listed_twice(folder: Folder, tmp_path: Path) -> None:
    keys = [SigningKey.load_or_create(tmp_path / f"{number}.pem") for number in range(2)]
    for key in keys:
        answer(folder, "west", key)
    assert {(m.name, m.key) for m in members(folder)} == {("west", key.public) for key in keys}


def test_before_the_first_answer_there_is_nobody_to_list(folder: Folder) -> None:
    done = ended("members", str(folder.root))
    assert (done.returncode, done.stdout) == (0, "")
    assert "no organisation has answered yet" in done.stderr


def test_a_key_that_did_not_sign_is_not_listed(folder: Folder, tmp_path: Path) -> None:
    key, other = (SigningKey.load_or_create(tmp_path / f"{number}.pem") for number in range(2))
    answer(folder, "west", key)
    path = folder.server / "heads.jsonl"
    path.write_text(path.read_text().replace(key.public, other.public))
    with pytest.raises(RunError, match="line 1 is not signed by the key that it names"):
        members(folder)
