"""``knothole lab``: the demo, the matrix, and the way into a lab."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from knothole.cli.lab_shell import run, shell
from knothole.cli.output import Failure, Output, WrongUsage
from knothole.lab.demo import picture_of, run_demo, went_well
from knothole.lab.matrix import (
    TEN_KINDS,
    pairs_of,
    rows_of,
    run_facts,
    run_matrix,
    summary,
    to_markdown,
    to_text,
)
from knothole.lab.netns.line import LineSettings
from knothole.lab.netns.namespace import NamespacesUnavailable
from knothole.lab.netns.nat import Unsolicited
from knothole.lab.programs import ProgramFailed
from knothole.lab.setting import Ipv6, Setting, Together
from knothole.lab.trial import Run, Verdict

app = App(
    name="lab",
    help="Real NATs on this machine: a demo, a matrix, a shell.\n\nExample: knothole lab demo",
    version_flags=(),
    group_parameters="Options",
)
app.command(shell)
app.command(run)


@app.command
def demo(*, out: Path = Path("out"), json: bool = False) -> int:
    """Play the call of the article between real programs, through NATs made by the kernel.

    Needs Linux, and root or user namespaces; elsewhere the call is simulated.

    Example: knothole lab demo --out /tmp/demo

    Parameters
    ----------
    out
        Folder for the recordings and the pictures.
    json
        One JSON object per call.
    """
    output = Output(json=json)
    try:
        reports = run_demo(out, (lambda line: None) if json else print)
    except ProgramFailed as failed:
        raise Failure(str(failed)) from failed
    for nat, report in reports.items():
        if json:
            output.result(
                "call",
                "",
                nat=nat,
                path="direct" if report.is_direct else "relayed",
                direct_bytes=report.direct.size,
                relayed_bytes=report.relayed.size,
                steps=[
                    {"after_seconds": round(step.after_seconds, 4), "text": step.text}
                    for step in report.story.steps
                ],
                recording=str(report.recording),
                picture=str(picture_of(out, nat)),
            )
    if not went_well(reports):
        raise Failure("The calls did not go as they should: see above.")
    return 0


@app.command
def matrix(
    *kinds: str,
    against: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    runs: int = 3,
    one_way: float = 10.0,
    jitter: float = 0.0,
    loss: float = 0.0,
    unsolicited: Unsolicited = Unsolicited.DROP,
    busy: float = 0.0,
    same_nat: Annotated[bool, Parameter(negative=())] = False,
    same_carrier: str | None = None,
    same_addresses: Annotated[bool, Parameter(negative=())] = False,
    ipv6: Ipv6 = Ipv6.NONE,
    settle: float = 8.0,
    markdown: Path | None = None,
    json: bool = False,
) -> int:
    """Try pairs of NATs with real programs; a table of what was direct, relayed or failed.

    Judged by what arrives at their interfaces. Needs Linux, and root or user namespaces.

    Example: knothole lab matrix none firewall linux --runs 5 --one-way 10

    Example: knothole lab matrix sequential@5 --against linux

    Example: knothole lab matrix linux+no-udp linux+tcp443 linux+proxy

    Example: knothole lab matrix linux linux+hairpin --same-nat

    Parameters
    ----------
    kinds
        Kinds of NAT, each tried with each; by default ten: none, firewall, linux,
        linux-collision, range, sequential, random, eim-apdf, eim-eif, carrier.
        docs/lab.md has more, and what may stand behind one: @5 for neighbours that take 5
        ports a second, +no-udp, +tcp443, +proxy, +hairpin, +reject, +accept.
    against
        Try each of KINDS with these instead; may be given again.
    runs
        Calls for each pair; the two ends take turns in calling.
    one_way
        Milliseconds one way between each client and the internet.
    jitter
        Up to so many milliseconds more, at random.
    loss
        Percent of the packets that are lost, each way.
    unsolicited
        What the NATs do with packets nobody asked for: drop, reject (with ICMP), or accept.
    busy
        New ports a second that other hosts behind each NAT take.
    same_nat
        Both clients are behind one NAT of each kind.
    same_carrier
        Both NATs are behind one more, a carrier's, of this kind, such as eim-apdf+hairpin.
    same_addresses
        The networks of both clients have the same private addresses.
    ipv6
        Who has IPv6 besides, behind the same filters: none, both, one.
    settle
        Seconds that a run waits for a direct path before it is judged.
    markdown
        Write the table to this file as well.
    json
        One JSON object per run, and one for all.
    """
    output = Output(json=json)
    line = _line(one_way, jitter, loss)
    try:
        setting = Setting(
            line=line,
            unsolicited=unsolicited,
            busy=busy,
            together=_together(same_nat, same_carrier, same_addresses),
            carrier=same_carrier or "eim-apdf",
            ipv6=ipv6,
            settle_seconds=settle,
        )
        pairs = pairs_of(kinds or TEN_KINDS, against, setting)
    except ValueError as error:
        raise WrongUsage(f"{error}.") from error
    if not 0 <= busy <= 1000 or settle < 0:
        raise WrongUsage("--busy is 0 to 1000 ports a second, --settle at least 0 seconds.")
    if runs < 1:
        raise WrongUsage("--runs must be at least 1.")

    def progress(run: Run) -> None:
        text = f"{run.caller_nat} calls {run.callee_nat}: {run.verdict.value} {run.error}"
        output.note("run", text.strip(), **run_facts(run))

    try:
        done = run_matrix(pairs, runs=runs, setting=setting, progress=progress)
    except NamespacesUnavailable as refusal:
        raise Failure(f"{refusal}.") from refusal
    if markdown is not None:
        markdown.write_text(to_markdown(done), encoding="utf-8")
    if json:
        output.result(
            "matrix", "", summary=summary(done), rows=[asdict(row) for row in rows_of(done)]
        )
    else:
        print(f"\n{to_text(done)}", end="")
    failed = sum(run.verdict is Verdict.FAILED for run in done)
    if failed:
        raise Failure(f"{failed} of {len(done)} calls failed.")
    return 0


def _together(same_nat: bool, same_carrier: str | None, same_addresses: bool) -> Together:
    chosen = {
        Together.NAT: same_nat,
        Together.CARRIER: same_carrier is not None,
        Together.ADDRESSES: same_addresses,
    }
    given = [together for together, is_given in chosen.items() if is_given]
    if len(given) > 1:
        raise WrongUsage("Only one of --same-nat, --same-carrier and --same-addresses.")
    return given[0] if given else Together.NOTHING


def _line(one_way: float, jitter: float, loss: float) -> LineSettings:
    """A line in the units of the command line: milliseconds and percent."""
    try:
        return LineSettings(one_way / 1000, jitter / 1000, loss / 100)
    except ValueError:
        raise WrongUsage("--one-way and --jitter are at least 0, --loss is 0 to 100.") from None
