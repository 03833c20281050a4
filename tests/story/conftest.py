"""Stories: the real programs, from the command line, across real NATs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]
else:
    from knothole.lab.netns.namespace import NamespacesUnavailable, make_namespaces_possible
    from knothole.lab.recovery import Town

    @pytest.fixture(autouse=True, scope="session")
    def _namespaces_or_skip() -> None:
        try:
            make_namespaces_possible()
        except NamespacesUnavailable as refused:
            pytest.skip(str(refused))

    @pytest.fixture
    def stage(tmp_path: Path) -> Iterator[Callable[..., Town]]:
        """Makes stages that are gone after the test."""
        with ExitStack() as stack:

            def make(**options: Any) -> Town:
                return stack.enter_context(Town(tmp_path, **options))

            yield make
