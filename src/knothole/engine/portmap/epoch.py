"""Whether a gateway was restarted, by the age that it tells of itself."""

from __future__ import annotations

from typing import Final

_SLACK_SECONDS: Final = 2.0  # RFC 6887 Section 8.5, RFC 6886 Section 3.6


class Epoch:
    """One gateway's count of seconds, watched over all of its answers."""

    def __init__(self, drift: float) -> None:
        """``drift``: the part by which its clock may differ from ours."""
        self._drift = drift
        self._server: int | None = None
        self._client = 0.0

    def restarted(self, epoch_seconds: int, now: float) -> bool:
        """Take down what an answer says; whether the gateway has lost its mappings since the last.

        RFC 6887 Section 8.5, in both directions; RFC 6886 Section 3.6 has a part of it.
        """
        server, client = self._server, self._client
        self._server, self._client = epoch_seconds, now
        if server is None:
            return False
        if epoch_seconds + 1 < server:
            return True
        server_delta, client_delta = epoch_seconds - server, now - client
        return client_delta + _SLACK_SECONDS < server_delta * (
            1 - self._drift
        ) or server_delta + _SLACK_SECONDS < client_delta * (1 - self._drift)
