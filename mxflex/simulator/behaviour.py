"""The switches: how the simulated MX behaves where real ones are not known, or known to differ.

The defaults are the likeliest behaviour. Every field may be changed while the simulator runs.
Source: docs/mx-protocol.md, the table of uncertainties; a number in a comment is its row there.
"""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.define(eq=False, kw_only=True)
class Behaviour:
    """One set of switches.

    Login and session:
        code_attribute: The spelling of the code in login answers (1).
        api_version: The `apiversion` of login answers.
        hash_refused: Every user is checked by a directory: code 4 for the hashed form (2).
        server_user_id: What a server session gets as `userId` (30).
        answer_keepalive: Whether a keep-alive is answered by one (5).
        logout_answer: The root of the answer to `logout`; "" closes without one (6).
        second_session: Whether a second session of one user, not forced, is let in (28).
        idle_timeout: Seconds of silence after which a session is closed; None for never (33).
        keep_open_before_login: Whether a command before the login leaves the connection open (34).
        keep_open_after_refusal: Whether a refused login leaves the connection open (35).
        presence_after_login: Seconds after which a user's session is told its own presence.

    Monitors and address book:
        second_monitor: What a second `MonitorStart` of one extension in one session gives (8).
        monitor_ids: Whether monitor ids count per session or for the whole server (9).
        users_monitor_others: Whether user sessions may monitor any extension (31).
        max_monitors: Monitors in one session before `MonitorStart` is refused (42).
        book_answer: Whether `ablist` comes as an event or with the command's id (4).
        book_index: Whether `ablist` tells its page number (10).
        book_size: What the `size` of `ablist` counts (11).
        page_size: Entries in a page (11).
        book_events_unasked: Whether changes are told to sessions that did not ask (12).
        presence_events: Whether presence is told to sessions that watch the address book.
        presence_typo: Whether presence events spell `NotAvaliable` (39).

    Call events:
        outgoing: A click-to-call to an outside number is diverted to the own remote number first
            (`remote`, as in the owner's sample) or not (`desk`).
        service_initiated: Whether a call begins with `ServiceInitiatedEvent`.
        service_initiated_info: Its `localConnectionInfo` (37).
        network_reached: Whether an outside call passes `NetworkReachedEvent`.
        network_interface: The trunk named there.
        own_phone_rings: Whether click-to-call lets the caller's own telephone ring first (26).
        caller_sees: `localConnectionInfo` on the caller's side while the other rings (16).
        redirection_is_caller: Whether `lastRedirectionDevice` of a plain call is the caller.
        causes: Only `normal`, or the causes of ECMA-269 (24).
        commands_as_list: Whether `cmdsAllowed` is a list of elements, as MX 17 writes (14).
        absent_device: How a device without a number is written (15).
        transferred_name: The root of the transfer event (18).
        recording_nested: Whether `RecordingStateEvent` wraps its connection (19).
        cleared_after_divert: Whether a device that diverted its call is told the end (25).
        voicemail_leg_seen: Whether a device goes on seeing the call that voicemail took.
        voicemail_divert_to: The destination of the device's own `DivertedEvent` to voicemail.
        voicemail_message: Whether a message is announced after the call.
        global_id_everywhere: Whether all events carry the global call id (40).
        text_call_ids: Whether call ids are texts (13).
        call_id_per_device: Whether each device of a call has its own call id.

    Commands and text:
        events_first: Whether the events of a command come before its answer (27).
        error_form: How a refusal is written (41).
        answer_suffix: What is added to a command's name for an answer without content (7).
        xml_declaration: Whether every text begins with an XML declaration (32).
        namespace: Whether every element has the prefix of the CSTA namespace (32).
        outside_caller_device: The device of a call made from a user's outside number (43).
        make_call_id_differs: Whether the call id of the answer to `MakeCall` is another than that
            of the events (44).

    Telephones that nobody holds, in seconds; None for never:
        outside_answers_after: When outside telephones answer.
        outside_hangs_up_after: When outside parties end a call that was answered.
        no_answer_after: When an extension that rings is given up.
    """

    code_attribute: Literal["Code", "code"] = "Code"
    api_version: int = 11
    hash_refused: bool = False
    server_user_id: Literal["absent", "zero", "max"] = "absent"
    answer_keepalive: bool = False
    logout_answer: Literal["Logout", "logoutResponse", ""] = "Logout"
    second_session: Literal["allow", "refuse"] = "allow"
    idle_timeout: float | None = None
    keep_open_before_login: bool = True
    keep_open_after_refusal: bool = True
    presence_after_login: float | None = 1.8

    second_monitor: Literal["new", "same", "error"] = "new"
    monitor_ids: Literal["session", "server"] = "session"
    users_monitor_others: bool = False
    max_monitors: int | None = None
    book_answer: Literal["event", "command"] = "event"
    book_index: bool = True
    book_size: Literal["entries", "pages"] = "entries"
    page_size: int = 50
    book_events_unasked: bool = False
    presence_events: bool = True
    presence_typo: bool = True

    outgoing: Literal["remote", "desk"] = "remote"
    service_initiated: bool = False
    service_initiated_info: Literal["initiated", "initializing"] = "initiated"
    network_reached: bool = False
    network_interface: str = "190"
    own_phone_rings: bool = False
    caller_sees: Literal["alerting", "connected"] = "alerting"
    redirection_is_caller: bool = False
    causes: Literal["normal", "ecma"] = "normal"
    commands_as_list: bool = False
    absent_device: Literal["mixed", "notKnown", "notRequired", "empty"] = "mixed"
    transferred_name: Literal["TransferedEvent", "TransferredEvent"] = "TransferedEvent"
    recording_nested: bool = True
    cleared_after_divert: bool = True
    voicemail_leg_seen: bool = True
    voicemail_divert_to: Literal["own", "service"] = "own"
    voicemail_message: bool = True
    global_id_everywhere: bool = False
    text_call_ids: bool = False
    call_id_per_device: bool = False

    events_first: bool = False
    error_form: Literal["CSTAErrorCode", "errorResponse", "attribute"] = "CSTAErrorCode"
    answer_suffix: str = "Response"
    xml_declaration: bool = False
    namespace: bool = False
    outside_caller_device: Literal["ext", "number"] = "ext"
    make_call_id_differs: bool = False

    outside_answers_after: float | None = None
    outside_hangs_up_after: float | None = None
    no_answer_after: float | None = None
