"""What all tests share: nothing is left to chance, and nothing has a deadline on a busy machine."""

from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# A shell starts what it runs in the background with Ctrl-C ignored, and so would be the programs
# that tests send one to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
