"""A program of the soak, as seen from within: commands in, answers out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

Obey = Callable[[Any], object]


class _Commands(LineOnlyReceiver):
    delimiter = b"\n"
    # Tokens of everybody fit.
    MAX_LENGTH = 1 << 20

    def __init__(self, commands: Mapping[str, Obey], ended: Deferred[None]) -> None:
        self._commands = commands
        self._ended = ended

    def lineReceived(self, line: bytes) -> None:
        for name, given in json.loads(line).items():
            try:
                self._commands[name](given)
            except Exception:
                give_up(Failure())

    def connectionLost(self, reason: object = None) -> None:  # noqa: ARG002 - Twisted's signature
        self._ended.callback(None)


async def obey(reactor: Any, commands: Mapping[str, Obey]) -> None:
    """Do what standard input says, until it ends.

    Args:
        reactor: Reads.
        commands: What to do with what is given to each command.
    """
    ended: Deferred[None] = Deferred()
    StandardIO(_Commands(commands, ended), reactor=reactor)
    await ended


def say(answer: dict[str, Any]) -> None:
    """Write a line of JSON to standard output, and wait until all of it has been taken."""
    # Twisted's `StandardIO` has made it a pipe that refuses what it has no room for.
    os.set_blocking(sys.stdout.fileno(), True)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def give_up(failure: Failure) -> None:
    """End the program by a bug: nothing that it says could be believed."""
    failure.printTraceback(file=sys.stderr)
    sys.stderr.flush()
    from twisted.internet import reactor  # noqa: PLC0415 - nobody else needs the global one

    cast("Any", reactor).stop()
