"""How the simulated MX misbehaves: set by tests, while it runs.

`Faults` belongs to one `SimulatedMX`. What concerns all connections is a field; what concerns a
command is a `CommandFault` under the command's wire name. `MALFORMED` has the bytes of every kind
of broken frame for `SimulatedMX.send_raw`.
"""

from __future__ import annotations

import attrs

from mxflex.simulator.certificate import Certificate
from mxflex.wire.framing import encode_frame
from mxflex.wire.messages import CallEvent, CSTAError, Reply

EVERY_COMMAND = "*"

# Each name says what is wrong. After those in LOSES_FRAMING a client cannot find the next frame.
MALFORMED: dict[str, bytes] = {
    "length 0": b"\0\0\0\0" + b"9999",
    "length 7": b"\0\0\0\x07" + b"9999",
    "id with letters": b"\0\0\0\x0c" + b"12a4" + b"<a/>",
    "id with blanks": b"\0\0\0\x0c" + b"  12" + b"<a/>",
    "kind 1": b"\0\x01\0\x0c" + b"9999" + b"<a/>",
    "empty body": encode_frame(9999, b""),
    "blank body": encode_frame(9999, b" \r\n\t"),
    "text instead of XML": encode_frame(9999, b"hello"),
    "unclosed element": encode_frame(9999, b"<DeliveredEvent><connection>"),
    "two roots": encode_frame(9999, b"<a/><b/>"),
    "doctype": encode_frame(9999, b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'),
    "billion laughs": encode_frame(
        9999,
        b'<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">'
        b'<!ENTITY z "&y;&y;&y;&y;&y;&y;&y;&y;">]><a>&z;</a>',
    ),
    "external entity": encode_frame(
        9999, b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'
    ),
    "invalid UTF-8": encode_frame(9999, b"<presence from='1' status='\xff\xfe'/>"),
    "control characters": encode_frame(9999, b"<presence from='1' status='\x01&#x2;'/>"),
    "deep nesting": encode_frame(9999, b"<a>" * 5000 + b"</a>" * 5000),
    "unknown event": encode_frame(9999, b"<SomethingNewEvent><x>1</x></SomethingNewEvent>"),
    "event of an unknown monitor": encode_frame(
        9999,
        b"<ConnectionClearedEvent><monitorCrossRefID>987654</monitorCrossRefID><droppedConnection>"
        b"<callID>1</callID><deviceID>3095</deviceID></droppedConnection><cause>normal</cause>"
        b"</ConnectionClearedEvent>",
    ),
    "event without anything": encode_frame(9999, b"<DeliveredEvent/>"),
    "text where numbers are due": encode_frame(
        9999,
        b"<OriginatedEvent><monitorCrossRefID>x</monitorCrossRefID><originatedConnection>"
        b"<callID>y</callID></originatedConnection><callTypeFlags>z</callTypeFlags>"
        b"<cmdsAllowed/></OriginatedEvent>",
    ),
    "answer that nobody asked for": encode_frame(7777, b"<MakeCallResponse/>"),
}

LOSES_FRAMING = frozenset({"length 0", "length 7", "id with letters", "id with blanks"})


@attrs.frozen(kw_only=True)
class CommandFault:
    """What goes wrong with a command.

    Attributes:
        answer: Given instead of carrying the command out: a `CSTAError`, a `LoginFailed`, ...
        delay: Seconds before the command is looked at.
        unanswered: The command is carried out, but not answered.
        ignored: The command is neither carried out nor answered.
        twice: The answer comes twice.
        wrong_id: The answer carries an id that nobody waits for.
        drop: The connection is closed instead, by FIN.
        reset: The connection is closed instead, by RST.
        raw: Bytes sent instead of an answer; the command is not carried out.
        first: The first occurrence that is struck, counted from 1 since the fault was set.
        times: How many occurrences are struck; None for all.
    """

    answer: Reply | None = None
    delay: float = 0.0
    unanswered: bool = False
    ignored: bool = False
    twice: bool = False
    wrong_id: bool = False
    drop: bool = False
    reset: bool = False
    raw: bytes = b""
    first: int = 1
    times: int | None = None


NO_FAULT = CommandFault()


@attrs.define(eq=False)
class _Armed:
    fault: CommandFault
    seen: int = 0

    def strike(self) -> CommandFault:
        self.seen += 1
        behind = self.seen - self.fault.first
        if behind < 0 or (self.fault.times is not None and behind >= self.fault.times):
            return NO_FAULT
        return self.fault


@attrs.define(eq=False, kw_only=True)
class Faults:
    """Everything that can be wrong with the simulated MX.

    Attributes:
        hang_in_tls: New connections are accepted, and the TLS handshake is never answered.
        close_on_connect: New connections are closed at once, before TLS.
        reset_on_connect: New connections are reset at once, before TLS.
        certificate: Shown to new connections instead of the proper one.
        close_at_login: A login closes the connection.
        silent: Nothing is sent on any connection, as if the network had swallowed it; what comes
            is read and forgotten.
        byte_by_byte: Every byte is written by itself, in a turn of the reactor of its own.
        before_monitor_answer: Events sent for a new monitor ahead of its answer.
    """

    hang_in_tls: bool = False
    close_on_connect: bool = False
    reset_on_connect: bool = False
    certificate: Certificate | None = None
    close_at_login: bool = False
    silent: bool = False
    byte_by_byte: bool = False
    before_monitor_answer: tuple[CallEvent, ...] = ()
    _armed: dict[str, _Armed] = attrs.field(factory=dict, init=False)

    def set(self, command: str, fault: CommandFault) -> None:
        """Let a command fail from now on.

        Args:
            command: The command's wire name (`HoldCall`), or `EVERY_COMMAND`.
            fault: What goes wrong.
        """
        self._armed[command] = _Armed(fault)

    def refuse(self, command: str, text: str, category: str = "operation") -> None:
        """Let a command be refused by `CSTAErrorCode` from now on."""
        self.set(command, CommandFault(answer=CSTAError(text=text, category=category)))

    def clear(self, command: str) -> None:
        """Let a command work again."""
        self._armed.pop(command, None)

    @property
    def of_commands(self) -> dict[str, CommandFault]:
        """What has been set for which command."""
        return {command: armed.fault for command, armed in self._armed.items()}

    def end(self) -> None:
        """Let everything work again."""
        for field in attrs.fields(Faults):
            if field.init:
                setattr(self, field.name, field.default)
        self._armed.clear()

    def strike(self, command: str) -> CommandFault:
        """Give what goes wrong with a command that has just come."""
        armed = self._armed.get(command) or self._armed.get(EVERY_COMMAND)
        return NO_FAULT if armed is None else armed.strike()
