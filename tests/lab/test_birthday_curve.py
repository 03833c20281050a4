"""The measurement of ``./dev bench birthday``, in small."""

from __future__ import annotations

from xml.etree import ElementTree

from knothole.lab.bench.birthday import CASES, curve_of, play
from knothole.lab.bench.curve_svg import Curve, draw_curves


def test_a_small_pool_is_found_as_soon_as_the_theory_says() -> None:
    (case,) = (case for case in CASES if case.size == 256 and not case.both)
    curve = curve_of(case, [play(case, seed) for seed in range(24)])
    assert curve.inside, curve.farthest
    assert curve.measured[-1] > 0.9


def test_a_measured_curve_outside_of_its_band_is_told_apart() -> None:
    theory = tuple(n / 10 for n in range(1, 11))
    assert Curve("", 100, theory, theory, 0.1).inside
    assert not Curve("", 100, theory, (0.5, *theory[1:]), 0.1).inside


def test_the_picture_is_well_formed_and_names_every_pair() -> None:
    theory = tuple(n / 10 for n in range(1, 11))
    picture = draw_curves([Curve("a < b", 10, theory, theory, 0.1)] * 3)
    texts = [node.text for node in ElementTree.fromstring(picture).iter() if node.text]
    assert sum("a < b (10 runs)" in text for text in texts) == 3
