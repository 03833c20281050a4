"""docs/tour.md says what happens: every command of it is run, and its output compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from knothole.lab.tour import Chapter, Command, TourRotten, chapters, matches, walk

PAGE = (Path(__file__).parents[2] / "docs" / "tour.md").read_text(encoding="utf-8")
CHAPTERS = chapters(PAGE)


@pytest.mark.netns
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.title)
def test_the_tour_is_as_the_page_says(chapter: Chapter) -> None:
    typed = "\n".join(step.text for step in chapter.steps if isinstance(step, Command))
    for program in ("nc", "hping3"):
        if re.search(rf"^(.*\| )?{program} ", typed, re.MULTILINE) and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    walk(chapter.steps)


def test_every_chapter_has_something_to_do() -> None:
    assert [chapter.title for chapter in CHAPTERS] == re.findall(r"^## (.*)$", PAGE, re.MULTILINE)


@pytest.mark.netns
def test_a_page_that_says_something_else_is_found_out() -> None:
    page = "## One\n```console\n$ knothole lab shell none none\nalice# echo yes\nno\n```\n"
    [chapter] = chapters(page)
    with pytest.raises(TourRotten, match=r"line 4 of the tour says\s+no\s+but it printed\s+yes"):
        walk(chapter.steps)


def test_what_varies_is_anything_and_the_rest_is_exact() -> None:
    assert matches(["1: «40.3» ms direct"], ["1: 7 ms direct"])
    assert not matches(["1: «40.3» ms direct"], ["1: 7 ms relayed"])
    assert not matches(["1: «40.3» ms direct"], ["1: 7 ms direct", "more"])
    assert not matches(["a.c"], ["abc"])


def test_three_dots_are_lines_left_out_even_none() -> None:
    assert matches(["...", "end", "..."], ["end"])
    assert matches(["...", "end", "..."], ["one", "two", "end", "three"])
    assert not matches(["...", "end"], ["one", "end", "two"])


def test_a_line_that_belongs_to_no_command_is_refused() -> None:
    with pytest.raises(ValueError, match="line 3"):
        chapters("## One\n```console\nsomething\n```\n")
