"""The command line as it explains itself, and as docs/cli.md explains it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import knothole.cli
from knothole import __version__
from knothole.cli.app import COMMANDS, command_app, reflowed, run

from .conftest import DOC, documented_events, documented_options, sections

SUBCOMMANDS = [
    *(name for name in COMMANDS if name not in ("diy", "lab", "server", "turn-client")),
    "server status",
    "server credentials",
    "server revoke",
    "server rotate-secret",
    "server reload",
    "server drain",
    "diy listen",
    "diy send",
    "diy punch",
    "diy assist",
    "turn-client allocate",
    "turn-client echo",
    "turn-client load",
    "lab demo",
    "lab matrix",
    "lab shell",
    "lab run",
]


def options_of(command: str) -> set[str]:
    """The options that a command's parser knows."""
    root = app = command_app(command.split()[0])
    for word in command.split():
        app = app[word]
    arguments = app.assemble_argument_collection(default_parameter=root.default_parameter)
    return {name for each in arguments for name in each.names if name.startswith("-")}


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_help_shows_an_example_and_every_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"Example: (.* \| )?knothole {command}\b", text)
    for option in options_of(command):
        assert option in text


@pytest.mark.parametrize("command", SUBCOMMANDS)
def test_the_documentation_lists_exactly_the_options_there_are(command: str) -> None:
    assert documented_options(command) == options_of(command)


def test_the_documentation_has_a_section_for_every_command() -> None:
    assert sections().keys() == set(SUBCOMMANDS)


def test_the_documentation_lists_every_event_in_the_code() -> None:
    documented = {event for command in SUBCOMMANDS for event in documented_events(command)}
    sources = [path.read_text() for path in Path(knothole.cli.__file__).parent.glob("*.py")]
    emitted = {
        event
        for source in sources
        for event in re.findall(r'output\.(?:result|note)\(\s*"([a-z-]+)"', source)
    }
    assert emitted - {"hint", "words"} <= documented  # those two are for people only
    assert "candidate" in emitted


def test_the_summary_of_each_command_is_the_first_line_of_its_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, command in COMMANDS.items():
        run([name, "--help"])
        assert command.summary in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_alone_or_asked_for_help_it_lists_the_commands(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"knothole {__version__}\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "There is no command 'nonsense'."),
        ("pong", "Do you mean ping?"),
        ("-v ping bob", "The command comes first"),
        ("ping", "NAME is missing."),
        ("ping bob -c", "-c needs a value."),
        ("ping bob -c x", "int"),
        ("ping bob -c 0", "-c must be at least 1."),
        ("ping bob -i 0", "-i must be above 0"),
        ("ping bob carol", "more words than ping takes"),
        ("ping bob --loud", "--loud"),
        ("pipe", "NAME is missing."),
        ("chat", "NAME is missing."),
        ("call", "NAME is missing."),
        ("call bob --in", "--in needs a value."),
        ("server credentials", "NAME is missing."),
        ("server credentials bob --lifetime 0", "--lifetime"),
        ("server credentials a:b", "no colon"),
        ("server nonsense", "nonsense"),
        ("server revoke", "NAME is missing."),
        ("server drain now", "more words"),
        ("serve --relay-host x", "--relay-host: 'x' is not an IP address"),
        ("join", "missing"),
        ("join alice", "--server is missing."),
        ("join alice --server example.org", "knothole://HOST:PORT#PIN"),
        ("join Älice --server knothole://h#x", "pin"),
        ("join -- -x --server knothole://h", "missing"),
        ("join a/b --server knothole://h", "cannot be a name"),
        ("listen --echo --pipe", "choose one"),
        ("listen --echo --answer", "choose one"),
        ("listen --in tone", "--answer"),
        ("listen --pipe --out x.wav", "--answer"),
        ("listen --accept ,", "--accept"),
        ("contacts bob", "more words"),
        ("status now", "more words"),
        ("serve --port x", "int"),
        ("serve --port 99999", "port"),
        ("diy nonsense", "nonsense"),
        ("diy listen", "PORT is missing."),
        ("diy listen 70000", "70000 is no port"),
        ("diy send somewhere", "PORT is missing."),
        ("diy send somewhere 1 --wait -1", "--wait"),
        ("diy punch somewhere 53", "--from is missing."),
        ("diy punch somewhere 53 --from 0", "0 is no port"),
        ("diy punch somewhere 53 --from 1 --hops 0", "--hops"),
        ("audit --close nonsense", "udp, unasked, punching, relay, tcp-punching"),
        ("audit --rules x.nft", "Rules for what?"),
        ("audit --allow all", "--allow"),
        ("audit --outside eth0; --close udp", "no name of an interface"),
        ("audit --server example.org", "knothole://HOST:PORT#PIN"),
        ("audit --server knothole://127.0.0.1 --assistant nowhere", "HOST:PORT"),
        ("lab nonsense", "nonsense"),
        ("lab run", "HOST is missing."),
        ("lab shell nonsense", "no kind of NAT"),
        ("lab matrix --runs 0", "--runs"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_and_where_to_look(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("knothole: ")
    assert words in err
    assert re.search(r"Try: knothole ([\w-]+ ){0,2}--help$", err.strip())


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("server revoke", "server revoke --help"),
        ("server drain --bogus", "server drain --help"),
        ("turn-client load turn:a --size 1", "turn-client load --help"),
        ("server bogus", "server --help"),
        ("server --bogus", "server --help"),
        ("ping --bogus x", "ping --help"),
    ],
)
def test_wrong_usage_leads_to_the_help_of_that_very_command(
    line: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 2
    assert capsys.readouterr().err.strip().endswith(f"Try: knothole {where}")


def test_wrong_usage_is_an_object_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ping", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == '{"event": "error", "text": "NAME is missing. Try: knothole ping --help"}\n'


def loaded_by(*arguments: str) -> set[str]:
    """The modules in memory when a command line has been run."""
    code = (
        "import sys; from knothole.cli.app import run;"
        f"run({list(arguments)!r}); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_alone_loads_nothing_that_takes_time() -> None:
    heavy = {"asyncio", "cyclopts", "rich", "msgspec", "cryptography", "knothole.peer.peer"}
    assert not heavy & loaded_by("--help")


def test_a_command_loads_only_what_it_needs() -> None:
    heavy = {"av", "sounddevice", "numpy", "knothole.server.server", "knothole.lab.demo", "textual"}
    assert not heavy & loaded_by("ping", "--help")
    assert not heavy & loaded_by("call", "--help")


def test_paragraphs_are_one_line_each_and_sections_stay() -> None:
    docstring = """First
    line.

    Second.

    Parameters
    ----------
    name
        What it
        means.
    other
        More.
    """
    assert reflowed(docstring).splitlines() == [
        "First line.",
        "",
        "Second.",
        "",
        "Parameters",
        "----------",
        "name",
        "    What it means.",
        "other",
        "    More.",
    ]


def test_every_example_in_the_documentation_parses() -> None:
    examples = re.findall(r"^    .*?\bknothole ([a-z].*)$", DOC.read_text(), re.MULTILINE)
    assert len(examples) >= len(COMMANDS)
    for example in examples:
        words = re.sub(r" [<>] \S+", "", example).replace("'", "").split()
        command_app(words[0]).parse_args(words, exit_on_error=False, print_error=False)
