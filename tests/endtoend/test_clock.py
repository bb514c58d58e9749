"""The installed daemon while the clock of its machine is set."""

from __future__ import annotations

from tests.endtoend.stage import eventually

# What Python runs before a program, if it finds it: a clock that is set back when there is a file.
SET_BACK = """
import os, time
plain = time.time
def set_back():
    return plain() - 3600 * os.path.exists(os.environ["SET_BACK"])
time.time = set_back
"""
HEARTBEAT = b"\r\n:\n\n\r\n"


def test_a_clock_that_is_set_back(place):
    """Streams, watchdog and all else go on as before when the clock is set back by an hour."""
    (place.folder / "sitecustomize.py").write_text(SET_BACK)
    place.configure(events={"heartbeat": 0.5})
    mxsim = place.mxsim()
    file = place.folder / "set-back"
    environ = {"PYTHONPATH": str(place.folder), "SET_BACK": str(file)}
    mxflex = place.mxflex(environ=environ)
    stream = place.stream(place.token())
    read = stream.read_until(HEARTBEAT)
    file.touch()
    eventually(lambda: "the clock was set back by 36" in mxflex.output)
    for _ in range(3):
        read = stream.read_until(HEARTBEAT, read)
    mxflex.stop()
    mxsim.stop()
