"""What --in and --out name, ready to be used, or a clear word before anybody's phone rings."""

from __future__ import annotations

from pathlib import Path

from knothole.cli.output import Failure
from knothole.io.audio.backend import AudioError, Sink, Source
from knothole.io.audio.choose import sink_for, source_for
from knothole.io.audio.file import FileSink


class Sound:
    """A source and a sink. Close it, unless a call has taken them over."""

    def __init__(self, source: Source, sink: Sink) -> None:
        self.source = source
        self.sink = sink

    @classmethod
    async def open(cls, source: str | None, sink: str | None) -> Sound:
        """What ``source`` and ``sink`` name: files, ``tone``, ``null`` or devices.

        Devices are opened; a recording is created only when there is something to record. Raises
        Failure when a call could not use them.
        """
        try:
            sound = cls(source_for(source), sink_for(sink))
            try:
                await sound.source.open()
                if isinstance(sound.sink, FileSink):
                    _require_writable(Path(sink or ""))
                else:
                    await sound.sink.open()
            except BaseException:
                sound.close()
                raise
        except AudioError as error:
            raise Failure(f"{error}.") from error
        return sound

    def close(self) -> None:
        """Free the devices. Idempotent."""
        self.source.close()
        self.sink.close()


def recording(sink: str | None, number: int) -> str | None:
    """The name for the ``number``-th recording: FILE.wav, then FILE-2.wav, and so on."""
    if sink is None or number == 1 or not isinstance(sink_for(sink), FileSink):
        return sink
    path = Path(sink)
    return str(path.with_stem(f"{path.stem}-{number}"))


def _require_writable(path: Path) -> None:
    """Raise AudioError unless a recording can be written; what is there stays as it is."""
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise AudioError(f"{path} cannot be written: {error.strerror}") from error
