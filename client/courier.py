"""The way from a Flower node to the organisation's agent: HTTP over a Unix socket."""

from pathlib import Path

import httpx

from shared.errors import FederationError, RefusedError, UnreachableError
from shared.wire import CALLS, LONGEST_REASON, Parcel, from_bytes, to_bytes

PATHS = {kind: call for call, kinds in CALLS.items() for kind in kinds}
CONTENT_TYPE = "application/vnd.tacit.safetensors"
CONNECT_S = 10.0
KIND_HEADER = "tacit-kind"


class SocketAgent:
    """``shared.wire.AgentAccess`` of an agent in another process.

    Args:
        socket: path of the agent's Unix socket.
        timeout_s: longest wait for an answer; None for as long as the agent takes. The server's own
            deadline ends a round.
    """

    def __init__(self, socket: Path, timeout_s: float | None = None) -> None:
        self.socket = socket
        self._timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)

    def ask(self, kind: str, request: Parcel) -> Parcel:
        """Hand a request to the agent and return its answer.

        Raises:
            RefusedError: with the agent's sentence.
            UnreachableError: if the agent is not there, or busy for too long.
            FederationError: if it has no answer.
        """
        path = PATHS.get(kind)
        if path is None:
            raise FederationError(f"message: none of kind {kind[:100]!r} is known")
        headers = {"content-type": CONTENT_TYPE, KIND_HEADER: kind}
        transport = httpx.HTTPTransport(uds=str(self.socket))
        try:
            with httpx.Client(transport=transport, timeout=self._timeout) as client:
                answer = client.post(
                    f"http://agent/v1/{path}", content=to_bytes(request), headers=headers
                )
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the organisation's agent does not answer ({type(error).__name__})"
            ) from error
        if answer.status_code == httpx.codes.OK:
            return from_bytes(answer.content)
        reason = _reason(answer)
        if answer.status_code == httpx.codes.FORBIDDEN:
            raise RefusedError(reason)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise UnreachableError(reason)
        raise FederationError(reason)


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["reason"])[:LONGEST_REASON]
    except (ValueError, KeyError, TypeError):
        return f"the organisation's agent answered with status {answer.status_code}"
