"""How many organisations a secure sum may lose, and how many may be against the others.

Of n that exchanged keys, m or more must be in a sum, and m shares bring a secret back. T of them
may join hands with the server. An honest organisation gives, of each other one, either the share of
its self-mask (it is in the sum) or that of its mask key (it is lost), never both, and calls at most
n - m lost. Two bounds make this enough; ``docs/secure-aggregation.md`` has the proofs.

1. ``2 m > n + T``. To have both secrets of one organisation the server needs 2 m shares, of which
   n - T honest ones give one each and T give two. So no masked vector can be laid bare. Two sets of
   m that the server shows to different organisations share an honest one, so that all who give
   shares agree on who sent a masked vector.
2. ``(n - m)**2 < m - T``. Let d = n - m. Whatever the server tells whom, the n - T = m - T + d
   honest ones call others lost at most (m - T + d) d times, and each one that is taken out of the
   sum must have been called lost by m - T of them: at most d + d**2 / (m - T) are, rounded down.
   So no more than d are taken out, and m or more are in the sum.
"""

from shared.errors import PrivacyError

# From the sum of two, each knows the other's part.
FEWEST = 3
AUTO_DROPOUTS = 8


def least_participants(organisations: int, dropouts: int, colluders: int) -> int:
    """Fewest organisations in a sum, of those planned.

    Args:
        organisations: planned.
        dropouts: that may be lost; -1 takes one in eight, or as many as the two bounds leave.
        colluders: that may join hands with the server.
    """
    if dropouts >= 0:
        return organisations - dropouts
    wanted = range(organisations - organisations // AUTO_DROPOUTS, organisations)
    held = (least for least in wanted if not untolerated(organisations, least, colluders))
    return next(held, organisations)


def noise_share(least: int, colluders: int) -> float:
    """Part of the planned deviation that each adds, so that the honest of any sum add all of it.

    Args:
        least: fewest in the sum.
        colluders: that may join hands with the server, fewer than that.
    """
    return float((least - colluders) ** -0.5)


def untolerated(participants: int, least: int, colluders: int) -> str:
    """Why a secure sum would not hold under these figures, as a sentence; empty if it does.

    Args:
        participants: organisations that exchange keys, n.
        least: fewest in the sum, m.
        colluders: that may join hands with the server, T.
    """
    figures = f"{participants} organisations, at least {least} in the sum, {colluders} colluders"
    if colluders < 0 or least < FEWEST or participants < least:
        return f"{figures}: a secure sum needs {FEWEST} or more, and as many as there must be"
    lost, honest = participants - least, least - colluders
    if honest < 1 or 2 * least <= participants + colluders:
        return f"{figures}: too few would have to agree; allow fewer dropouts or colluders"
    if lost**2 >= honest:
        return (
            f"{figures}: a server that tells each another tale could take more than {lost} out of "
            "the sum; allow fewer dropouts"
        )
    return ""


def check_tolerance(participants: int, least: int, colluders: int) -> None:
    """Refuse figures under which a secure sum would not hold.

    Raises:
        PrivacyError: says which bound is broken, and what to change.
    """
    sentence = untolerated(participants, least, colluders)
    if sentence:
        raise PrivacyError(sentence)
