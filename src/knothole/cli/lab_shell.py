"""``knothole lab shell`` and ``knothole lab run``: a lab to walk about in."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Annotated

from cyclopts import Parameter

from knothole.cli.output import Failure, WrongUsage
from knothole.lab.netns.namespace import NamespacesUnavailable
from knothole.lab.netns.sweep import MARK
from knothole.lab.playground import Playground, shell_of
from knothole.lab.programs import ProgramFailed
from knothole.lab.visit import NoLab, Visit


def shell(alice: str = "linux", bob: str = "linux", /) -> int:
    """Build a lab, with Alice and Bob behind NATs of these kinds, and open a shell in front of it.

    From there, and from any other terminal, `knothole lab run HOST` goes into it. The lab lasts as
    long as the shell. docs/tour.md is a walk through it, docs/lab.md lists the kinds of NAT.

    Example: knothole lab shell linux random
    """
    try:
        with Playground(alice, bob) as playground:
            for name, about in playground.cast():
                print(f"{name:<12}{about}", flush=True)
            print(
                "Go into one with `knothole lab run HOST`, here or in another terminal.", flush=True
            )
            argv, env = shell_of(playground.folder)
            return _attend(argv, {**env, MARK: playground.lab.name})
    except ValueError as error:
        raise WrongUsage(f"{error}.") from error
    except (NamespacesUnavailable, ProgramFailed, NoLab) as error:
        raise Failure(f"{error}.") from error


def run(
    host: str,
    /,
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
) -> int:
    """Run a command at HOST of the lab that `knothole lab shell` has built, or a shell.

    HOST is alice, bob, carol (in Alice's LAN), local, remote, server, or a router: alice-nat,
    bob-nat, local-fw. All of them are known by name there.

    Example: knothole lab run alice -- knothole ping bob -c 3
    """
    try:
        argv, env = Visit.find().command(host, command)
        os.execvpe(argv[0], argv, env)  # noqa: S606  what the user asked for
    except NoLab as error:
        raise Failure(f"{str(error)[0].upper()}{str(error)[1:]}.") from error
    except OSError as error:
        raise Failure(f"nsenter does not run: {error.strerror}.") from error


def _attend(argv: list[str], env: dict[str, str]) -> int:
    """Let the shell have the terminal to its end; its exit code."""
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    # Ctrl-C is for what runs in the shell. A handler, because what is ignored is inherited.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        code = subprocess.run(argv, env=env, check=False).returncode
        return code if code >= 0 else 128 - code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
