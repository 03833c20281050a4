"""What all tests share: nothing is left to chance, and nothing has a deadline on a busy machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
# Otherwise it also tries the constants of those modules of ours that happen to be loaded: other
# examples for every order of tests, and for every test that is run alone (test_fixed_examples.py).
providers._get_local_constants = providers.Constants

# A shell starts what it runs in the background with Ctrl-C ignored, and so would be the programs
# that tests send one to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HANGING_SECONDS = 900.0
"""After so long a test hangs: compiling pion may take 400 s, and its calls 200 s more."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """What hangs fails, wherever it waits, so that the tests behind it are run all the same."""
    if not hasattr(signal, "SIGALRM"):
        return (yield)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        pytest.fail(f"it hangs: not done after {HANGING_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    # Again and again: an event loop only logs what is raised while it carries out a callback.
    signal.setitimer(signal.ITIMER_REAL, HANGING_SECONDS, 10.0)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=[True, False], ids=["batches", "single"])
def batches(request: pytest.FixtureRequest) -> bool:
    """Whether many datagrams may go in one system call."""
    return bool(request.param)
