"""Checks that came before the peer's credentials (RFC 8445 Section 7.3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from knothole.engine.ice.answer import AcceptedCheck
from knothole.wire.address import Address

MAX_EARLY_CHECKS: Final = 32  # ours: base and source pairs at most


class EarlyChecks:
    """They were answered at once; what they mean is looked at when the credentials are there."""

    def __init__(self) -> None:
        self._checks: dict[tuple[Address, Address], AcceptedCheck] = {}

    def __contains__(self, ends: tuple[Address, Address]) -> bool:
        return ends in self._checks

    def keep(self, check: AcceptedCheck) -> None:
        """The latest check between two ends; a nomination that came before it stays."""
        ends = check.base, check.source
        before = self._checks.get(ends)
        if before is not None:
            nominated = before.use_candidate or check.use_candidate
            self._checks[ends] = replace(check, use_candidate=nominated)
        elif len(self._checks) < MAX_EARLY_CHECKS:
            self._checks[ends] = check

    def take(self) -> list[AcceptedCheck]:
        """All of them, once."""
        checks, self._checks = list(self._checks.values()), {}
        return checks
