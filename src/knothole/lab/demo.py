"""``knothole lab demo``: the call of the article between real programs and through real NATs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from knothole.io.loop import run_loop
from knothole.lab.ladder import draw_text
from knothole.lab.ladder_svg import draw_svg
from knothole.lab.netns.journey import Fate
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import NamespacesUnavailable, make_namespaces_possible
from knothole.lab.report import ALICE_PORT, BOB_PORT, STRANGER, CallReport
from knothole.lab.scene import Scene

ONE_WAY_SECONDS: Final = 0.010

_TITLE: Final = "Alice calls Bob, both behind a NAT of the kind “{}”"

Say = Callable[[str], None]


def run_demo(out: Path, say: Say = print) -> dict[str, CallReport]:
    """Play both calls, and leave recordings and pictures in ``out``; reports by kind of NAT.

    Where namespaces are not allowed the calls are simulated, and that is said. Raises
    ProgramFailed when a program fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    play = _play_on_real_nats
    try:
        make_namespaces_possible()
    except NamespacesUnavailable as refusal:
        say(f"No real NATs here: {refusal}.")
        say("So the same calls run in the simulator, in real time: the same code, computed NATs.")
        play = _play_in_simulator
    reports = {}
    with as_file(files("knothole") / "data" / "speech.wav") as speech:
        for nat in ("linux", "random"):
            say(_announcement(nat))
            with tempfile.TemporaryDirectory(prefix="knothole-demo-") as profiles:
                report = play(nat, speech, out / f"bob-heard-{nat}.wav", Path(profiles), say)
            _draw(report, picture_of(out, nat), say)
            reports[nat] = report
    for line in _summary(reports["linux"], reports["random"]):
        say(line)
    return reports


def went_well(reports: dict[str, CallReport]) -> bool:
    """Whether the stranger was kept out, one call was direct and the other one relayed."""
    linux, random = reports["linux"], reports["random"]
    kept_out = linux.knock.fate is Fate.DISCARDED
    return kept_out and linux.is_direct and not random.is_direct


def picture_of(out: Path, nat: str) -> Path:
    """Where the picture of the call behind that kind of NAT is left."""
    return out / f"call-{nat}.svg"


def _play_on_real_nats(
    nat: str, speech: Path, recording: Path, profiles: Path, say: Say
) -> CallReport:
    line = LineSettings(one_way_seconds=ONE_WAY_SECONDS)
    with Scene(profiles, nat, line) as scene:
        say(f"Built in {scene.build_seconds:.2f} s. The server says: ready {scene.url}")
        say("Bob's program listens, a stranger knocks, Alice's program calls and speaks ...")
        return scene.call(speech, recording, _TITLE.format(nat))


def _play_in_simulator(
    nat: str, speech: Path, recording: Path, profiles: Path, say: Say
) -> CallReport:
    from knothole.lab.simulated_call import simulate_call

    say("Bob's program listens, a stranger knocks, Alice's program calls and speaks ...")
    title = _TITLE.format(nat) + " (simulated)"
    return run_loop(simulate_call(profiles, nat, ONE_WAY_SECONDS, speech, recording, title))


def _draw(report: CallReport, picture: Path, say: Say) -> None:
    picture.write_text(draw_svg(report.story.ladder), encoding="utf-8")
    say("")
    for row in draw_text(report.story.ladder):
        say(row)
    say("")
    say(f"The same as a picture: {picture}")


def _announcement(nat: str) -> str:
    if nat == "linux":
        return (
            "\n═══ The call of the article: Alice behind one Linux NAT, Bob behind another ═══\n"
            f"Alice's NAT is 1.1.1.1 and her program's port {ALICE_PORT}, Bob's NAT is 2.2.2.2 and "
            f"his port {BOB_PORT},\nthe server is 3.3.3.3; {ONE_WAY_SECONDS * 1000:g} ms one way "
            "from each client to the internet."
        )
    return (
        "\n═══ The same call where no hole can be aimed at: a random port for every destination ═══"
    )


def _summary(linux: CallReport, random: CallReport) -> list[str]:
    lines = ["\n═══ What happened ═══"]
    knocked = "discarded it" if linux.knock.fate is Fate.DISCARDED else "LET IT IN"
    lines.append(f"A packet from {STRANGER} to 1.1.1.1:{ALICE_PORT}: Alice's NAT {knocked}.")
    for name, report in (("linux", linux), ("random", random)):
        lines.append(f"\nBehind “{name}” NATs the call was {_verdict(report)}")
        lines += [
            f"  {step.after_seconds * 1000:7.1f} ms after the call: {step.text}"
            for step in report.story.steps
        ]
        lines.append(f"  What Bob heard: {report.recording}{_likeness(report)}")
    return lines


def _verdict(report: CallReport) -> str:
    where = "direct" if report.is_direct else "relayed"
    return (
        f"{where.upper()}: the internet carried {report.direct.size / 1000:.0f} kB from client to "
        f"client and {report.relayed.size / 1000:.0f} kB from the server to clients."
    )


def _likeness(report: CallReport) -> str:
    """How much the recording is like what was spoken, where numpy is there to say so."""
    try:
        from knothole.lab.speech import compare_files

        with as_file(files("knothole") / "data" / "speech.wav") as speech:
            match = compare_files(speech, report.recording)
    except (ImportError, OSError, ValueError):
        return ""
    return f" (correlation with what Alice said: {match.windowed_correlation:.3f})"
