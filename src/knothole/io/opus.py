"""Opus (RFC 6716) by the libopus that PyAV carries, called through ctypes.

PyAV's own codec interface has neither packet loss concealment nor forward error correction, so
the shared library inside its wheel is called directly. Everything is 48 kHz, mono, 16 bit, native
byte order, 20 ms a packet: one kind of frame, named in ``knothole.wire.voice``.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from functools import cache
from pathlib import Path
from typing import Final

from knothole.wire.malformed import MalformedMessage
from knothole.wire.voice import FRAME_SAMPLES, SAMPLE_RATE

_SILENCE: Final = bytes(2 * FRAME_SAMPLES)
_SILENT_FRAMES: Final = (
    25  # ours: half a second, after which every packet of silence is like the last
)
MAX_PACKET_BYTES: Final = 1275  # RFC 6716 Section 3.4 [R2]: the largest frame

# opus_defines.h; the numbers are the library's stable binary interface.
_APPLICATION_AUDIO: Final = 2049
_SET_BITRATE: Final = 4002
_SET_INBAND_FEC: Final = 4012
_SET_COMPLEXITY: Final = 4010
_SET_PACKET_LOSS: Final = 4014
_SET_DTX: Final = 4016
_SET_SIGNAL: Final = 4024
_GET_LOOKAHEAD: Final = 4027
_SIGNAL_VOICE: Final = 3001
_BUFFER_TOO_SMALL: Final = -2
_INVALID_PACKET: Final = -4


class OpusError(Exception):
    """libopus is missing, or refused what it was given; the text says which."""


class OpusEncoder:
    """Turns frames of 20 ms into Opus packets with forward error correction.

    ``bit_rate`` is in bits a second, ``complexity`` 0 (least work) to 10. Measured with speech:
    the defaults keep the waveform (correlation 0.987, at 5 % loss 0.981) as 48 kbit/s at complexity
    5 do, for half the work, 0.6 % of a core. The application "voip" would high-pass the voice and
    turn its phase (0.96).
    """

    def __init__(self, *, bit_rate: int = 64_000, complexity: int = 1) -> None:
        self._library = _load()
        error = ctypes.c_int()
        state = self._library.opus_encoder_create(
            SAMPLE_RATE, 1, _APPLICATION_AUDIO, ctypes.byref(error)
        )
        _check(error.value)
        self._state = ctypes.c_void_p(state)
        self._packet = ctypes.create_string_buffer(MAX_PACKET_BYTES)
        self._set(_SET_BITRATE, bit_rate)
        self._set(_SET_COMPLEXITY, complexity)
        self._set(_SET_SIGNAL, _SIGNAL_VOICE)
        self._set(_SET_INBAND_FEC, 1)
        self._set(_SET_DTX, 0)
        self._packet_loss_percent = 0
        self._silent_frames = 0
        self._last = b""
        self.lookahead_samples = self._get(_GET_LOOKAHEAD)

    @property
    def packet_loss_percent(self) -> int:
        """The loss the encoder prepares for: at 0 it spends nothing on error correction."""
        return self._packet_loss_percent

    @packet_loss_percent.setter
    def packet_loss_percent(self, percent: int) -> None:
        if percent != self._packet_loss_percent:
            self._set(_SET_PACKET_LOSS, percent)
            self._packet_loss_percent = percent

    def encode(self, frame: bytes, max_bytes: int = MAX_PACKET_BYTES) -> bytes:
        """The packet for one frame of 960 samples, not longer than ``max_bytes``.

        Lasting digital silence, of which a muted microphone or no source at all is made, is not
        worked out again for each frame.
        """
        if len(frame) != 2 * FRAME_SAMPLES:
            raise ValueError(f"a frame is {2 * FRAME_SAMPLES} bytes, not {len(frame)}")
        self._silent_frames = self._silent_frames + 1 if frame == _SILENCE else 0
        if self._silent_frames > _SILENT_FRAMES and len(self._last) <= max_bytes:
            return self._last
        size = self._library.opus_encode(
            self._state, frame, FRAME_SAMPLES, self._packet, min(max_bytes, MAX_PACKET_BYTES)
        )
        _check(size)
        self._last = self._packet.raw[:size]
        return self._last

    def _set(self, request: int, value: int) -> None:
        _check(self._library.opus_encoder_ctl(self._state, request, ctypes.c_int32(value)))

    def _get(self, request: int) -> int:
        value = ctypes.c_int32()
        _check(self._library.opus_encoder_ctl(self._state, request, ctypes.byref(value)))
        return value.value

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state:
            self._library.opus_encoder_destroy(state)
            self._state = None  # type: ignore[assignment]


class OpusDecoder:
    """Turns packets, and their absence, into frames of 20 ms."""

    def __init__(self) -> None:
        self._library = _load()
        error = ctypes.c_int()
        state = self._library.opus_decoder_create(SAMPLE_RATE, 1, ctypes.byref(error))
        _check(error.value)
        self._state = ctypes.c_void_p(state)
        self._frame = ctypes.create_string_buffer(2 * FRAME_SAMPLES)

    def decode(self, payload: bytes) -> bytes:
        """The frame in ``payload``; MalformedMessage when it is no Opus packet of 20 ms."""
        return self._decode(payload, 0)

    def recover(self, following: bytes) -> bytes:
        """The lost frame before ``following``, from the copy that ``following`` carries of it.

        A packet without a copy gives the same as :meth:`conceal`.
        """
        return self._decode(following, 1)

    def conceal(self, samples: int = FRAME_SAMPLES) -> bytes:
        """What most likely stood in a lost frame; fades to silence when called again and again."""
        return self._decode(None, 0, samples)

    def _decode(self, payload: bytes | None, recover: int, samples: int = FRAME_SAMPLES) -> bytes:
        count = self._library.opus_decode(
            self._state, payload, len(payload or b""), self._frame, samples, recover
        )
        if payload is not None and count in (_INVALID_PACKET, _BUFFER_TOO_SMALL):
            raise MalformedMessage("a payload that is not 20 ms of Opus")
        _check(count)
        return self._frame.raw[: 2 * count]

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state:
            self._library.opus_decoder_destroy(state)
            self._state = None  # type: ignore[assignment]


def _check(result: int) -> None:
    if result < 0:
        raise OpusError(f"libopus: {_load().opus_strerror(result).decode()}")


@cache
def _load() -> ctypes.CDLL:
    path = _find()
    try:
        library = ctypes.CDLL(path)
        version = library.opus_get_version_string
    except (OSError, AttributeError) as error:
        raise OpusError(f"{path} cannot be used as libopus: {error}") from error
    version.restype = ctypes.c_char_p
    void, integer, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    status = ctypes.POINTER(ctypes.c_int)
    for name, result, arguments in (
        ("opus_strerror", text, [integer]),
        ("opus_encoder_create", void, [ctypes.c_int32, integer, integer, status]),
        ("opus_encoder_destroy", None, [void]),
        ("opus_encode", ctypes.c_int32, [void, text, integer, text, ctypes.c_int32]),
        # Variadic: only the fixed arguments are declared, so that ctypes passes the rest the way
        # variadic arguments are passed (on the stack, on Apple's arm64).
        ("opus_encoder_ctl", integer, [void, integer]),
        ("opus_decoder_create", void, [ctypes.c_int32, integer, status]),
        ("opus_decoder_destroy", None, [void]),
        ("opus_decode", integer, [void, text, ctypes.c_int32, text, integer, integer]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _find() -> str:
    """Where libopus is: inside the PyAV wheel, otherwise wherever the system keeps it.

    The wheels keep it in ``av.libs`` beside the package (Linux, Windows) or in ``av/.dylibs``
    (macOS). Looking does not import PyAV, which would load all of FFmpeg.
    """
    package = importlib.util.find_spec("av")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent
        for libraries in (folder.parent / "av.libs", folder / ".dylibs"):
            for path in sorted(libraries.glob("libopus*")):
                if "opusenc" not in path.name and "opusfile" not in path.name:
                    return str(path)
    name = ctypes.util.find_library("opus")
    if name is None:
        raise OpusError("libopus is missing: install PyAV from its wheel, or the system's libopus")
    return name
