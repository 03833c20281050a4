"""Alice speaks a file to Bob's loudspeaker; Carol's microphone hears it and Dave records that.

    python speak_in_a_room.py SPEECH.wav RECORDED.wav

Both devices are the machine's default ones.
"""

from __future__ import annotations

import asyncio
import sys

from knothole.apps.call import talk
from knothole.io.audio import list_devices, sink_for, source_for
from knothole.lab.lossy_line import lossy_lines


async def main(speech: str, recorded: str) -> None:
    assert any(device.is_default_output for device in list_devices())
    microphone, loudspeaker = source_for(None), sink_for(None)
    await loudspeaker.open()
    await microphone.open()
    alice, bob = lossy_lines()
    carol, dave = lossy_lines()
    until = asyncio.Event()
    listening = asyncio.gather(
        talk(carol, microphone, sink_for("null"), until=until),
        talk(dave, source_for("null"), sink_for(recorded)),
    )
    spoken = await asyncio.gather(
        talk(alice, source_for(speech), sink_for("null")),
        talk(bob, source_for("null"), loudspeaker),
    )
    await asyncio.sleep(0.5)
    until.set()
    heard = await listening
    print(*(outcome.text for outcome in (*spoken, *heard)), sep="\n")


asyncio.run(main(*sys.argv[1:]))
