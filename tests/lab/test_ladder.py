"""Ladders of packets: what is shown, as text and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from knothole.lab.ladder import (
    Arrow,
    Column,
    Ladder,
    Outcome,
    Section,
    Tone,
    condense,
    describe,
    draw_text,
)
from knothole.lab.ladder_svg import draw_svg

COLUMNS = (
    Column("Alice", "192.168.1.10"),
    Column("Alice's NAT", "1.1.1.1", is_wall=True),
    Column("Server", "3.3.3.3"),
    Column("Bob's NAT", "2.2.2.2", is_wall=True),
    Column("Bob", "10.0.2.10"),
)


def arrow(*way: tuple[int, float], towards: int = 4, **changes: object) -> Arrow:
    facts: dict[str, object] = {"label": "check", "detail": "a → b", "tone": Tone.CHECK}
    return Arrow(tuple(way), towards, **(facts | changes))  # type: ignore[arg-type]


def lines_with(ladder: Ladder, text: str) -> list[str]:
    return [line for line in draw_text(ladder) if text in line]


def test_an_arrow_crosses_the_lifelines_on_its_way() -> None:
    ladder = Ladder(COLUMNS, [arrow((0, 1.0), (1, 1.0), (3, 1.02), (4, 1.02))])
    [line] = lines_with(ladder, "check")
    assert "●────────────┼────────────┼────────────┼────────────▶  check " in line
    assert line.startswith("     0.0 ms")


def test_a_discarded_packet_ends_in_front_of_the_wall_with_a_cross() -> None:
    lost = arrow((4, 1.0), (3, 1.0), (1, 1.02), towards=0, outcome=Outcome.DISCARDED)
    [line] = lines_with(Ladder(COLUMNS, [lost]), "check")
    assert "│            ║✗───────────┼────────────┼────────────●" in line
    assert line.endswith("DISCARDED")


@pytest.mark.parametrize(
    ("home", "towards", "drawn"),
    [
        (0, 4, "●───────────✗║            │            ║            │  check"),
        (4, 0, "│            ║            │            ║✗───────────●  check"),
    ],
)
def test_a_packet_that_its_own_nat_discarded_ends_in_front_of_that_wall(
    home: int, towards: int, drawn: str
) -> None:
    ladder = Ladder(COLUMNS, [arrow((home, 1.0), towards=towards, outcome=Outcome.DISCARDED)])
    [line] = lines_with(ladder, "check")
    assert drawn in line
    ElementTree.fromstring(draw_svg(ladder))


def test_a_packet_never_seen_again_points_where_it_was_meant_to_go() -> None:
    lost = arrow((4, 1.0), towards=0, outcome=Outcome.LOST)
    [line] = lines_with(Ladder(COLUMNS, [lost]), "check")
    assert "?─────●" in line


def test_times_count_from_the_moment_asked_for() -> None:
    ladder = Ladder(COLUMNS, [arrow((0, 5.0), (2, 5.01), towards=2)], zero=5.5)
    assert lines_with(ladder, "check")[0].startswith("  -500.0 ms")


def test_a_section_comes_before_what_starts_with_it() -> None:
    first = arrow((0, 1.0), (2, 1.1), label="one", towards=2)
    second = arrow((0, 2.0), (2, 2.1), label="two", towards=2)
    ladder = Ladder(COLUMNS, [second, first], [Section(2.0, "Step 2"), Section(1.0, "Step 1")])
    told = [
        word
        for line in draw_text(ladder)
        for word in ("Step 1", "Step 2", "one", "two")
        if word in line
    ]
    assert told == ["Step 1", "one", "Step 2", "two"]


def test_of_arrows_alike_the_first_are_kept_and_the_rest_counted() -> None:
    voice = [
        arrow((0, n * 0.02), (4, n * 0.02 + 0.02), label=f"QUIC {n} B", tone=Tone.PAYLOAD)
        for n in range(100)
    ]
    other = arrow((4, 0.5), (0, 0.52), towards=0, label="QUIC 9 B", tone=Tone.PAYLOAD)
    kept = condense([*voice, other], keep=2)
    assert [(each.label, each.repeats) for each in kept] == [
        ("QUIC 0 B", 0),
        ("QUIC 1 B", 98),
        ("QUIC 9 B", 0),
    ]
    assert describe(kept[1]).endswith("(and 98 more)")
    assert len(condense(voice, fewer={Tone.PAYLOAD: 1})) == 1


def test_a_discarded_packet_is_never_counted_among_those_that_arrived() -> None:
    arrived = arrow((0, 1.0), (1, 1.0), (3, 1.1))
    discarded = arrow((0, 2.0), (1, 2.0), (3, 2.1), outcome=Outcome.DISCARDED)
    assert condense([arrived, discarded], keep=1) == [arrived, discarded]


def test_the_picture_is_well_formed_and_marks_what_was_discarded() -> None:
    ladder = Ladder(
        COLUMNS,
        [
            arrow((4, 1.0), (3, 1.0), (1, 1.02), towards=0, outcome=Outcome.DISCARDED),
            arrow((0, 1.01), (1, 1.01), (3, 1.03), (4, 1.03), label="<b> & 'c'"),
            arrow((0, 1.05), towards=4, outcome=Outcome.LOST),
        ],
        [Section(1.0, "Step 2 · <Bob>")],
        title="A & B",
    )
    picture = draw_svg(ladder)
    root = ElementTree.fromstring(picture)
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A & B", "Step 2 · <Bob>", "<b> & 'c'", "discarded", "lost"} <= set(texts)
    assert picture.count("stroke-linecap") == 2, "a cross in the ladder and one in the legend"


def test_an_empty_ladder_is_drawn_too() -> None:
    assert draw_text(Ladder(COLUMNS))
    ElementTree.fromstring(draw_svg(Ladder(COLUMNS)))


def test_labels_of_packets_at_the_same_moment_do_not_lie_on_each_other() -> None:
    ladder = Ladder(COLUMNS, [arrow((0, 1.0), (4, 1.02), label=f"n{n}") for n in range(5)])
    root = ElementTree.fromstring(draw_svg(ladder))
    heights = sorted(
        float(each.get("y", "0"))
        for each in root.iter("{http://www.w3.org/2000/svg}text")
        if each.text == "a → b"
    )
    assert len(heights) == 5
    assert min(b - a for a, b in pairwise(heights)) >= 24
