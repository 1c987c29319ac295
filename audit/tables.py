"""Tables and sentences of ``tacit audit`` on a terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from audit.report_words import joint_text, sums_text

if TYPE_CHECKING:
    from audit.heads import Heads, Member
    from audit.verify import Verification
    from shared.chain import Fault
    from shared.departures import Departure, Egress

LONGEST_SENTENCE = 500
MOST_SENTENCES = 100


def print_verification(
    console: Console, found: "Verification", key_given: bool, server_given: bool
) -> None:
    """A short table, then notices, then a sentence for each fault."""
    table = Table(show_header=False)
    table.add_column()
    # Keys and hashes are compared by eye: in full, however narrow the window.
    table.add_column(overflow="fold")
    rows = [
        (
            "Organisation",
            f"{found.organisation or 'unknown'}, {found.declared_users} users declared",
        ),
        ("Ledger", f"{found.ledger}"),
        ("Records", f"{found.records}, {found.first_at[:19]} to {found.last_at[:19]}"),
        (
            "Public key",
            f"{found.public_key}\n"
            + ("as given" if key_given else "as the ledger itself says; give --key to be certain"),
        ),
        (
            "Spent, left, refused",
            f"{found.intents} intents, {found.releases} releases ({found.bytes_out:,} bytes), "
            f"{found.refusals} refusals",
        ),
        *_epsilon_rows(found),
        ("Sums", sums_text(found.sums, found.members)),
        *(
            (
                "Seen by a server",
                f"record {w.sequence} of {found.records}, {w.at[:19]}, key {w.server_key[:12]}"
                + ("" if server_given else "; give --server-key to be certain whose it is"),
            )
            for w in found.witnesses
        ),
    ]
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    console.print(table)
    for reason in found.not_private:
        say(console, f"Not private: {reason}.", "bold red")
    _sentences(console, found.notices, "Notice", "yellow")
    _sentences(console, found.faults, "Fault", "red")
    if found.faults:
        say(console, f"{_count(len(found.faults), 'fault')}: not to be relied on.", "bold red")
    else:
        say(console, "No fault found.", "bold green")


def print_egress(console: Console, found: "Egress") -> None:
    """Departures, totals and refusals."""
    table = Table(title="What left")
    table.add_column("Record")
    table.add_column("Time, UTC", no_wrap=True)
    for name in ("Run", "Round"):
        table.add_column(name)
    table.add_column("What left", overflow="fold")
    table.add_column("Bytes", justify="right")
    table.add_column("SHA-256")
    for departure in found.departures:
        release = departure.release
        run, _, rest = departure.request.partition("/")
        _row(
            table,
            str(departure.record),
            departure.at[5:19].replace("T", " "),
            run[:8],
            rest.partition("/")[0] + (" (again)" if departure.again else ""),
            _what(departure),
            f"{release.size_bytes:,}",
            release.sha256[:8] if release.size_bytes else "",
        )
    console.print(table)
    totals = Table(title="In all")
    totals.add_column("Mechanism")
    for name in ("Releases", "Bytes"):
        totals.add_column(name, justify="right")
    for total in found.totals():
        _row(totals, total.mechanism, str(total.releases), f"{total.size_bytes:,}")
    console.print(totals)
    fields = sorted({name for departure in found.departures for name in departure.release.fields})
    say(
        console,
        f"Public fields that went along: {', '.join(fields) or 'none'}. --csv FILE has every array "
        "with its shape, and whole requests and hashes.",
        "",
    )
    if found.denials:
        denials = Table(title="What was refused")
        for name in ("Record", "Time", "Request", "Rule", "Why"):
            denials.add_column(name)
        for denial in found.denials:
            refusal = denial.refusal
            _row(
                denials,
                str(denial.record),
                denial.at[:19],
                denial.request,
                refusal.rule,
                refusal.sentence,
            )
        console.print(denials)


def print_members(
    console: Console,
    heads: "Heads",
    found: Sequence["Member"],
    verifications: Sequence["Verification"],
) -> None:
    """What the server has seen of each ledger, and what the ledgers that were checked say."""
    table = Table()
    for name in ("Organisation", "Declared", "Ledger", "Newest head", "Replies", "Runs", "Epsilon"):
        table.add_column(name, justify="left" if name in ("Organisation", "Ledger") else "right")
    table.add_column("Sound")
    for member in found:
        checked = member.verification
        _row(
            table,
            member.name,
            str(member.declared_users),
            member.ledger[:12],
            f"{member.sequence}, {member.at[:19]}",
            str(member.replies),
            str(member.runs),
            "not known" if checked is None else _epsilon(checked),
            "not checked" if checked is None else "no" if checked.faults else "yes",
        )
    console.print(table)
    faults = [(heads.path.name, fault) for fault in heads.faults]
    faults += [(member.name, fault) for member in found for fault in member.faults]
    for checked in verifications:
        # The lines of the heads file are named once, above, and not again with every ledger.
        own = [fault for fault in checked.faults if fault not in heads.faults]
        faults += [(checked.organisation or checked.ledger[:12], fault) for fault in own]
    for name, fault in faults[:MOST_SENTENCES]:
        say(console, f"Fault: {name}: {_sentence(fault)}", "red")
    for checked in verifications:
        for reason in checked.not_private:
            say(console, f"Not private: {checked.organisation}: {reason}.", "bold red")
    unknown = [member.name for member in found if member.verification is None]
    if verifications:
        releases = sum(checked.releases for checked in verifications)
        size = sum(checked.bytes_out for checked in verifications)
        say(
            console,
            f"{_count(len(verifications), 'ledger')} checked: {releases} releases, {size:,} bytes. "
            "Each epsilon holds for the users of that organisation; for a user whom two of them "
            "know, the two add up.",
            "",
        )
    if unknown:
        say(
            console,
            f"Without a bundle the server cannot know what {', '.join(unknown)} spent, released or "
            "refused: a head says only that a ledger went on and was not taken back.",
            "yellow",
        )
    if faults:
        say(console, f"{_count(len(faults), 'fault')}.", "bold red")
    else:
        say(console, "No ledger went backwards, and none showed two histories.", "bold green")


def say(console: Console, sentence: str, style: str) -> None:
    """Print one sentence, which may quote what came from outside."""
    short = printable(sentence)
    if len(short) > LONGEST_SENTENCE:
        short = short[:LONGEST_SENTENCE] + " ..."
    console.print(Text(short, style), soft_wrap=True)


def printable(text: str) -> str:
    """Text from outside without the control characters that would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def _what(departure: "Departure") -> str:
    from shared.trust import phase_of

    phase, masked = phase_of(departure.request)
    if departure.release.mechanism != "protocol" or not phase:
        return departure.mechanism
    return f"{phase} of a secure sum of {masked.split('/')[2]}"


def _epsilon_rows(found: "Verification") -> Iterable[tuple[str, str]]:
    if not found.spent:
        yield "Epsilon", "cannot be stated"
    for spent in found.spent:
        whose = "" if spent.federation is None else f" of {spent.federation[:12] or 'no key'}"
        budget = "" if found.budget is None else f", budget {found.budget:g}"
        if spent.federation is None and len(found.spent) > 1:
            budget = ", all federations together"
        as_read = " as far as the records can be trusted" if found.faults else ""
        yield (
            f"Epsilon{whose}",
            f"{spent.pld:.4f} at delta {found.delta:g}, per user, add or remove one user{budget}"
            f"{as_read}\nPLD {spent.pld:.4f}, confirmed by PRV {spent.prv:.4f}; RDP's ceiling "
            f"{spent.rdp:.4f}",
        )
        if found.sums.colluders is not None:
            yield (
                f"Joint and alone{whose}",
                f"joint {spent.joint:.4f}: holds against {joint_text(found.sums.colluders)}\n"
                f"alone {spent.alone:.4f}: holds where everybody else is against it\n"
                f"the budget counts {found.binds}",
            )


def _epsilon(checked: "Verification") -> str:
    return f"{checked.spent[0].pld:.4f}" if checked.spent else "not known"


def _sentences(console: Console, faults: Sequence["Fault"], label: str, style: str) -> None:
    for fault in faults[:MOST_SENTENCES]:
        say(console, f"{label}: {_sentence(fault)}", style)
    if len(faults) > MOST_SENTENCES:
        say(console, f"{len(faults) - MOST_SENTENCES} more; --json FILE writes all.", style)


def _sentence(fault: "Fault") -> str:
    where = f"record {fault.sequence}: " if fault.sequence else ""
    return f"{where}{fault.sentence}"


def _row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell[:LONGEST_SENTENCE])) for cell in cells))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
