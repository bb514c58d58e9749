"""The answers to http-01 challenges (RFC 8555, 8.3)."""

from __future__ import annotations

from mxflex.certs.acme import Challenge


class ChallengeResponder:
    """Knows what the CA may fetch at this moment."""

    def __init__(self) -> None:
        self._answers: dict[bytes, bytes] = {}

    def respond(self, challenge: Challenge) -> None:
        """Answer a challenge from now on."""
        self._answers[challenge.token.encode("ascii")] = challenge.key_authorization.encode("ascii")

    def forget(self) -> None:
        """Answer none any more."""
        self._answers.clear()

    def answer(self, token: bytes) -> bytes | None:
        """Give the answer for a token; None for one that is not known."""
        return self._answers.get(token)
