"""What all tests share: nothing is left to chance, and nothing has a deadline on a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
