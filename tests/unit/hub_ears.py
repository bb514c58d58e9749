"""What the tests of the hub have in common: a clock, listeners, and events that can be read."""

from __future__ import annotations

NOW = 1_505_411_996.0


def encode(event_id, name, data):
    """Write an event so that a test can read it again."""
    return b"%d %s %s" % (event_id, name.encode(), data)


def gap(reason, since):
    return reason.encode() if since is None else b"%s since %d" % (reason.encode(), since)


def id_of(frame):
    return int(frame.split(b" ", 1)[0])


class Time:
    """A clock that is set by hand, ahead and back."""

    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


class Stream:
    """A listener that keeps what it is told; `on_send` is done when the next event comes."""

    def __init__(self):
        self.received = []
        self.ended = 0
        self.on_send = None
        self.on_end = None

    def send(self, frame):
        assert not self.ended, "sent after the end"
        self.received.append(frame)
        act, self.on_send = self.on_send, None
        if act is not None:
            act()

    def end(self):
        self.ended += 1
        if self.on_end is not None:
            self.on_end()


def fail():
    raise RuntimeError("a stream with a bug")


def texts(frames):
    return [frame.split(b" ", 2)[2].decode() for frame in frames]
