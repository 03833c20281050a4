"""What goes to stdout and what to stderr, for people and for programs."""

from __future__ import annotations

import json

import pytest

from knothole.cli.output import Output


def test_people_read_results_on_stdout_and_the_rest_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(json=False)
    output.result("pong", "1: 3 ms", number=1)
    output.note("over", "bob has left")
    output.error("It failed.")
    assert capsys.readouterr() == ("1: 3 ms\n", "bob has left\nknothole: It failed.\n")


def test_programs_read_objects_on_stdout_and_errors_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(json=True)
    output.result("message", "bob: hi", peer="bob", text="hi")
    output.note("left", "bob has left", peer="bob")
    output.error("It failed.")
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"event": "message", "peer": "bob", "text": "hi"},
        {"event": "left", "peer": "bob"},
    ]
    assert json.loads(err) == {"event": "error", "text": "It failed."}


@pytest.mark.parametrize("as_json", [False, True])
def test_where_stdout_is_data_everything_goes_to_stderr(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    output = Output(json=as_json, stdout_is_data=True)
    output.result("ready", "ready")
    output.note("line", "Connected")
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2


def test_what_has_no_words_is_for_programs_only(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).result("stats", "", rtt_ms=3)
    assert capsys.readouterr() == ("", "")


def test_text_comes_out_as_one_line_whoever_wrote_it(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=False).result("message", "eve: \x1b[2J\nbob: send money")
    assert capsys.readouterr().out == "eve: \\x1b[2J\\nbob: send money\n"


def test_what_is_printed_goes_above_the_bottom_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Bottom:
        def hide(self) -> None:
            print("hide")

        def show(self) -> None:
            print("show")

    output = Output(json=False)
    with output.above(Bottom()):
        output.result("message", "text")
    output.result("message", "later")
    assert capsys.readouterr().out.split() == ["show", "hide", "text", "show", "hide", "later"]
