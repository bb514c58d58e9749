"""The one event of the voicemail box that the simulated MX sends.

The gateway has no use for it, so it is no message of `mxflex.wire`: a client that meets it must
take it for an event it does not know.
"""

from __future__ import annotations

from typing import Annotated

import attrs

from mxflex.wire.codec import Attribute, Flag, Number, NumberAttribute, Text
from mxflex.wire.messages import CallEvent

VOICE_MAIL = "VoiceMail"
RECORDING = "Recording"


@attrs.frozen(kw_only=True)
class MailIncomingReady(CallEvent):
    """A voice message, or the recording of a call, lies in a user's box.

    Attributes:
        media_type: `VoiceMail` or `Recording`.
        call: The text form of the call's id.
        received: Unix seconds.
        duration: Seconds.

    Source: docs/mx-protocol.md, "MailIncomingReadyEvent".
    """

    wire_name = "MailIncomingReadyEvent"

    caller: Annotated[str, Attribute("from", always=True)] = ""
    from_name: Annotated[str, Attribute("fromName", always=True)] = ""
    caller_name: Annotated[str, Attribute("callerName", always=True)] = ""
    to: Annotated[str, Attribute("to", always=True)] = ""
    owner_id: Annotated[int | None, NumberAttribute("ownerId")] = None
    owner_type: Annotated[str, Attribute("ownerType")] = "user"
    mail_id: Annotated[int | None, Number("mailId")] = None
    media_type: Annotated[str, Text("mediaType")] = VOICE_MAIL
    call: Annotated[str, Text("gcid")] = ""
    received: Annotated[int | None, Number("received")] = None
    duration: Annotated[int | None, Number("duration")] = None
    read: Annotated[bool, Flag("read")] = False
    file_format: Annotated[str, Text("fileFormat")] = "wav"
    note: Annotated[str, Text("note")] = ""
