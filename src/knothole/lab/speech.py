"""Judges a recording by what was spoken: alike how much, late by how much, with which gaps.

    python -m knothole.lab.speech SPOKEN.wav RECORDED.wav

prints one JSON object. Only this module needs numpy, which pywebrtc-audio brings along.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from knothole.io.audio.file import read_sound
from knothole.wire.voice import FRAME_SAMPLES, SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Samples: TypeAlias = npt.NDArray[np.float64]

# All ours.
_WINDOW_SAMPLES: Final = 2 * SAMPLE_RATE
_WANDER_SAMPLES: Final = SAMPLE_RATE // 2  # how far a window may lie from the whole
_QUIET: Final = 0.003  # -50 dB of full scale, root mean square: a pause in speech
_GAP_RATIO: Final = 0.1  # 20 dB less than was spoken is a gap


@dataclass(frozen=True, slots=True)
class Gap:
    """A place where something was spoken and next to nothing recorded."""

    at_seconds: float
    length_seconds: float


@dataclass(frozen=True, slots=True)
class SpeechMatch:
    """How a recording compares with what was spoken.

    ``correlation`` (-1 to 1) is that of the whole, aligned once; ``windowed_correlation`` that of
    windows of 2 s aligned each for itself, weighted by their energy: it is higher where the delay
    changed on the way. ``delay_seconds`` says where in the recording the spoken begins (below 0
    when the recording begins later), ``drift_seconds`` how much later the last window lies than the
    first. Times in ``gaps`` are those of the spoken.
    """

    correlation: float
    windowed_correlation: float
    delay_seconds: float
    drift_seconds: float
    gaps: tuple[Gap, ...]
    spoken_seconds: float
    recorded_seconds: float


def compare_files(spoken: Path, recorded: Path) -> SpeechMatch:
    """Compare two sound files of any form. Raises AudioError when one cannot be read."""
    import numpy as np

    return compare(
        *(np.frombuffer(b"".join(read_sound(path)), np.int16) for path in (spoken, recorded))
    )


def compare(spoken: npt.NDArray[Any], recorded: npt.NDArray[Any]) -> SpeechMatch:
    """Compare samples of 16 bit, 48 kHz, mono. Raises ValueError when one of them is silent."""
    said, heard = _centred(spoken), _centred(recorded)
    lag = _best_lag(said, heard)
    aligned = _cut(heard, lag, len(said))
    windows = _windows(said, heard, lag)
    energy = sum(weight for _, _, weight in windows)
    return SpeechMatch(
        correlation=_correlation(said, aligned),
        windowed_correlation=sum(value * weight for _, value, weight in windows) / energy,
        delay_seconds=lag / SAMPLE_RATE,
        drift_seconds=(windows[-1][0] - windows[0][0]) / SAMPLE_RATE,
        gaps=tuple(_gaps(said, aligned)),
        spoken_seconds=len(said) / SAMPLE_RATE,
        recorded_seconds=len(heard) / SAMPLE_RATE,
    )


def _centred(samples: npt.NDArray[Any]) -> Samples:
    import numpy as np

    values = samples.astype(np.float64) / 32768
    if not values.size or not values.any():
        raise ValueError("nothing but silence: there is nothing to compare")
    centred: Samples = values - values.mean()
    return centred


def _best_lag(said: Samples, heard: Samples) -> int:
    """How many samples later ``said`` is found in ``heard``: the peak of their correlation."""
    import numpy as np

    size = 1 << (len(said) + len(heard) - 1).bit_length()
    spectrum = np.conj(np.fft.rfft(said, size)) * np.fft.rfft(heard, size)
    peak = int(np.argmax(np.fft.irfft(spectrum, size)))
    return peak if peak < len(heard) else peak - size


def _cut(samples: Samples, start: int, length: int) -> Samples:
    """``length`` samples from ``start`` on, silence where there are none."""
    import numpy as np

    cut = np.zeros(length)
    first, last = max(0, start), min(len(samples), start + length)
    if first < last:
        cut[first - start : last - start] = samples[first:last]
    return cut


def _correlation(a: Samples, b: Samples) -> float:
    norm = float((a @ a) * (b @ b)) ** 0.5
    return float(a @ b) / norm if norm else 0.0


def _windows(said: Samples, heard: Samples, lag: int) -> list[tuple[int, float, float]]:
    """Lag, correlation and energy of each window that is not a pause."""
    found = []
    for start in range(0, max(1, len(said) - _WINDOW_SAMPLES // 2), _WINDOW_SAMPLES):
        window = said[start : start + _WINDOW_SAMPLES]
        energy = float(window @ window)
        if energy < len(window) * _QUIET**2:
            continue
        from_sample = start + lag - _WANDER_SAMPLES
        around = _cut(heard, from_sample, len(window) + 2 * _WANDER_SAMPLES)
        if not around.any():
            found.append((lag, 0.0, energy))
            continue
        own = _best_lag(window, around)
        value = _correlation(window, _cut(around, own, len(window)))
        found.append((lag + own - _WANDER_SAMPLES, value, energy))
    return found or [(lag, 0.0, 1.0)]


def _gaps(said: Samples, aligned: Samples) -> list[Gap]:
    import numpy as np

    frames = len(said) // FRAME_SAMPLES
    loud, kept = (
        np.sqrt((x[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES) ** 2).mean(axis=1))
        for x in (said, aligned)
    )
    missing = (loud > _QUIET) & (kept < loud * _GAP_RATIO)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], missing, [False])).astype(int)))
    seconds = FRAME_SAMPLES / SAMPLE_RATE
    return [
        Gap(round(float(first) * seconds, 3), round(float(last - first) * seconds, 3))
        for first, last in edges.reshape(-1, 2)
    ]


if __name__ == "__main__":
    print(json.dumps(asdict(compare_files(Path(sys.argv[1]), Path(sys.argv[2])))))
