"""Something that a codec takes for speech: syllables with pitch, formants, hiss and pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from knothole.wire.voice import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Formants in Hz of five vowels (a, e, i, o, u), after Peterson and Barney, 1952.
_VOWELS: Final = (
    (730, 1090, 2440),
    (530, 1840, 2480),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
)
_BANDWIDTH_HZ: Final = 120.0
_PEAK: Final = 12_000


def synthetic_voice(seconds: float, seed: int = 1) -> npt.NDArray[np.int16]:
    """So many seconds of it, 48 kHz mono; the same ``seed`` says the same."""
    import numpy as np

    random = np.random.default_rng(seed)
    length = round(seconds * SAMPLE_RATE)
    voice = np.zeros(length)
    position = 0
    while position < length:
        syllable = _syllable(random)[: length - position]
        voice[position : position + len(syllable)] = syllable
        pause = random.uniform(0.15, 0.5) if random.random() < 0.2 else random.uniform(0.01, 0.06)
        position += len(syllable) + round(pause * SAMPLE_RATE)
    return (voice * _PEAK).astype(np.int16)


def _syllable(random: np.random.Generator) -> npt.NDArray[np.float64]:
    import numpy as np

    count = round(random.uniform(0.12, 0.3) * SAMPLE_RATE)
    time = np.arange(count) / SAMPLE_RATE
    pitch = random.uniform(95, 210) * (1 + random.uniform(-0.25, 0.25) * time / time[-1])
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    formants = _VOWELS[random.integers(len(_VOWELS))]
    sound = np.zeros(count)
    for harmonic in range(1, int(4000 / pitch.max())):
        frequency = harmonic * pitch.mean()
        gain = sum(1 / (1 + ((frequency - f) / _BANDWIDTH_HZ) ** 2) for f in formants)
        sound += (0.05 + gain) / harmonic**0.7 * np.sin(harmonic * phase)
    if random.random() < 0.4:
        hiss = np.diff(random.standard_normal(count + 1))
        sound += 0.15 * hiss * np.exp(-time / 0.04)
    sound *= np.hanning(count) ** 0.5
    loudness: float = random.uniform(0.4, 1.0) / float(np.abs(sound).max())
    shaped: npt.NDArray[np.float64] = sound * loudness
    return shaped
