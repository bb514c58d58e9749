"""The routes of the API: each reads a request, calls the gateway, and renders the answer.

Source: docs/api.md has every route, field and error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from klein import Klein
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import NotFound
from werkzeug.http import parse_accept_header

from mxflex.audit import Field, audited
from mxflex.errors import BadRequest, Forbidden, NotAcceptable
from mxflex.gateway.calls import Calls
from mxflex.gateway.contacts import Contacts
from mxflex.gateway.directory import Directory
from mxflex.gateway.hub import CALLS_ALONE, Topic
from mxflex.gateway.login import Grant, Logins
from mxflex.gateway.tickets import Tickets
from mxflex.gateway.tokens import Identity
from mxflex.web.access import check_body, find_ticket, find_token
from mxflex.web.docs import FILES, send_file, send_page
from mxflex.web.eventstream import EventStreams
from mxflex.web.fields import Fields, read_body, read_list, read_query
from mxflex.web.listings import ContactList, encode_calls, encode_webhooks, send_contacts
from mxflex.web.openapi import document
from mxflex.web.render import send_failure, send_json, send_nothing, send_tagged
from mxflex.web.routes import Routes
from mxflex.web.site import Request as SiteRequest
from mxflex.webhooks.dispatch import Webhooks
from mxflex.wire.codec import ConnectionID

EVENT_STREAM = "text/event-stream"
# More digits than any id of ours has.
MAX_ID_DIGITS = 18
# An id that is in no history.
UNKNOWN_ID = -1


class Api:
    """The web API, below `/api`.

    Args:
        logins: Logins and logouts.
        tickets: What opens streams instead of a token.
        streams: Event streams.
        calls: Call control.
        contacts: The address book.
        directory: Finds people in it.
        webhooks: Where events are posted to.
        admins: The extensions whose users look after the daemon.
        token_in_url: Whether a token may stand in the URL.
    """

    app = Klein()

    def __init__(
        self,
        logins: Logins,
        tickets: Tickets,
        streams: EventStreams,
        calls: Calls,
        contacts: Contacts,
        *,
        directory: Directory,
        webhooks: Webhooks,
        admins: frozenset[str],
        token_in_url: bool,
    ) -> None:
        self._logins = logins
        self._tickets = tickets
        self._streams = streams
        self._calls = calls
        self._contacts = ContactList(contacts)
        self._directory = directory
        self._webhooks = webhooks
        self.admins = admins
        self.take_tokens_in_urls(token_in_url)

    def take_tokens_in_urls(self, wanted: bool) -> None:
        """Say whether a token may stand in the URL from now on."""
        self._token_in_url = wanted
        self._document = document(token_in_url=wanted)

    def resource(self) -> Routes:
        """Give all routes as one web resource."""
        return Routes(self.app)

    def _identify(self, request: Request) -> Identity:
        return self._logins.identify(find_token(request, in_url=self._token_in_url))

    def _identify_alone(self, request: Request) -> Identity:
        """Give who asks, where nothing else may be asked."""
        identity = self._identify(request)
        check_body(request)
        return identity

    # --- Who ----------------------------------------------------------------------------------

    @app.route("/login", methods=["POST"])
    async def login(self, request: SiteRequest) -> bytes:
        """Check a person against the MX and give a token."""
        fields = read_body(request)
        login = fields.required("login", "login required")
        password = fields.secret("password", "password required")
        with audited("login", address=request.address, login=login) as told:
            grant = await self._logins.log_in(login, password, request.address)
            told["ext"] = grant.ext
        return _send_grant(request, grant)

    @app.route("/token", methods=["POST"])
    async def token(self, request: SiteRequest) -> bytes:
        """Give a new token for one that is still good."""
        identity = self._identify_alone(request)
        with audited("token.renew", **_who(request, identity)):
            grant = await self._logins.renew(identity)
        return _send_grant(request, grant)

    @app.route("/logout", methods=["GET", "POST"])
    async def logout(self, request: SiteRequest) -> None:
        """Stop watching the user's extension."""
        identity = self._identify_alone(request)
        with audited("logout", **_who(request, identity)):
            await self._logins.log_out(identity)
        send_nothing(request)

    @app.route("/ticket", methods=["POST"])
    def ticket(self, request: SiteRequest) -> bytes:
        """Give what opens one event stream."""
        identity = self._identify_alone(request)
        with audited("ticket", **_who(request, identity)):
            ticket = self._tickets.issue(identity)
        return send_json(request, {"ticket": ticket.text, "expires_in": ticket.expires_in})

    # --- What happens -------------------------------------------------------------------------

    @app.route("/events", methods=["GET"])
    async def events(self, request: SiteRequest) -> IResource:
        """Stream the events of the user's extension for as long as the client listens."""
        ticket = find_ticket(request)
        identity = self._tickets.redeem(ticket) if ticket else self._identify(request)
        accept = read_list(request, "accept")
        # An empty list excludes nothing.
        if accept and not parse_accept_header(accept, MIMEAccept)[EVENT_STREAM]:
            raise NotAcceptable(f"this resource is {EVENT_STREAM} alone")
        return await self._streams.open(
            request, identity, _topics(request), _last_event_id(request)
        )

    @app.route("/contacts", methods=["GET"])
    def contacts(self, request: Request) -> bytes:
        """Give the address book, or those whom a text is about."""
        self._identify(request)
        text = (read_query(request).text("q") or "").strip()
        if not text:
            return self._contacts.render(request)
        return send_contacts(request, self._directory.search(text))

    @app.route("/contacts/lookup", methods=["GET"])
    def lookup(self, request: Request) -> bytes:
        """Give those who have a telephone number."""
        self._identify(request)
        number = read_query(request).required("number", "number required")
        return send_contacts(request, self._directory.lookup(number))

    @app.route("/calls", methods=["GET"])
    def calls(self, request: Request) -> bytes:
        """Give the calls of the user's extension."""
        return send_json(request, encode_calls(self._calls.of(self._identify(request))))

    # --- Call control -------------------------------------------------------------------------

    @app.route("/call", methods=["POST"])
    async def make_call(self, request: SiteRequest) -> bytes:
        """Make a call from the user's extension, or from another device."""
        identity, fields = self._identify(request), read_body(request)
        to = fields.required("to", "to field is empty")
        calling = (fields.text("from") or "").strip()
        with audited("call.make", **_who(request, identity), to=to, calling=calling) as told:
            made = await self._calls.make(identity, to, calling)
            told.update(_which(made.connection))
        call = {
            "callId": made.connection.call_id,
            "deviceId": made.connection.device_id,
            "called": made.called,
        }
        return send_json(request, {"call": call})

    @app.route("/call/answer", methods=["POST"])
    async def answer(self, request: SiteRequest) -> None:
        """Answer a ringing call."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.answer", **_who(request, identity), **_which(call)):
            await self._calls.answer(identity, call)
        send_nothing(request)

    @app.route("/call/hangup", methods=["POST"])
    async def hang_up(self, request: SiteRequest) -> None:
        """Leave a call, or reject a ringing one."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.hangup", **_who(request, identity), **_which(call)):
            await self._calls.hang_up(identity, call)
        send_nothing(request)

    @app.route("/call/hold", methods=["POST"])
    async def hold(self, request: SiteRequest) -> None:
        """Put a call on hold, or take it back."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.hold", **_who(request, identity), **_which(call)):
            await self._calls.hold(identity, call)
        send_nothing(request)

    @app.route("/call/retrieve", methods=["POST"])
    async def retrieve(self, request: SiteRequest) -> None:
        """Take a call back from hold."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.retrieve", **_who(request, identity), **_which(call)):
            await self._calls.retrieve(identity, call)
        send_nothing(request)

    @app.route("/call/deflect", methods=["POST"])
    async def deflect(self, request: SiteRequest) -> None:
        """Send a ringing call elsewhere."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        to = _destination(fields)
        with audited("call.deflect", **_who(request, identity), **_which(call), to=to):
            await self._calls.deflect(identity, call, to)
        send_nothing(request)

    @app.route("/call/park", methods=["POST"])
    async def park(self, request: SiteRequest) -> None:
        """Park a call."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.park", **_who(request, identity), **_which(call)):
            await self._calls.park(identity, call)
        send_nothing(request)

    @app.route("/call/transfer", methods=["POST"])
    async def transfer(self, request: SiteRequest) -> None:
        """Hand an answered call to another number."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        to = _destination(fields)
        with audited("call.transfer", **_who(request, identity), **_which(call), to=to):
            await self._calls.transfer(identity, call, to)
        send_nothing(request)

    @app.route("/call/transfer/consult", methods=["POST"])
    async def transfer_consult(self, request: SiteRequest) -> None:
        """Join the held call and the active one."""
        identity, fields = self._identify(request), read_body(request)
        held = _connection(fields)
        active = _active_connection(fields)
        other = {"active_call_id": active.call_id, "active_device_id": active.device_id}
        with audited("call.transfer.consult", **_who(request, identity), **_which(held), **other):
            await self._calls.transfer_consult(identity, held, active)
        send_nothing(request)

    @app.route("/call/record/start", methods=["POST"])
    async def start_recording(self, request: SiteRequest) -> None:
        """Begin to record a call."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.record.start", **_who(request, identity), **_which(call)):
            await self._calls.start_recording(identity, call)
        send_nothing(request)

    @app.route("/call/record/stop", methods=["POST"])
    async def stop_recording(self, request: SiteRequest) -> None:
        """End the recording of a call."""
        identity, fields = self._identify(request), read_body(request)
        call = _connection(fields)
        with audited("call.record.stop", **_who(request, identity), **_which(call)):
            await self._calls.stop_recording(identity, call)
        send_nothing(request)

    # --- For those who look after the daemon --------------------------------------------------

    def _admit(self, request: SiteRequest) -> Identity:
        """Give who asks, if that is somebody who looks after the daemon."""
        identity = self._identify(request)
        if identity.ext not in self.admins:
            with audited("admin", **_who(request, identity)):
                raise Forbidden("this is for the administrators of MXFlex alone")
        return identity

    @app.route("/admin/webhooks", methods=["GET"])
    async def webhooks(self, request: SiteRequest) -> bytes:
        """Tell how the webhooks stand."""
        self._admit(request)
        return send_json(request, encode_webhooks(await self._webhooks.status()))

    @app.route("/admin/webhooks/retry", methods=["POST"])
    async def retry_webhook(self, request: SiteRequest) -> bytes:
        """Send dead letters again."""
        count = await self._act_on_webhook(request, "retry", self._webhooks.retry)
        return send_json(request, {"retried": count})

    @app.route("/admin/webhooks/discard", methods=["POST"])
    async def discard_webhook(self, request: SiteRequest) -> bytes:
        """Throw dead letters away."""
        count = await self._act_on_webhook(request, "discard", self._webhooks.discard)
        return send_json(request, {"discarded": count})

    @app.route("/admin/webhooks/enable", methods=["POST"])
    async def enable_webhook(self, request: SiteRequest) -> None:
        """Send events again to a receiver that wanted no more."""
        identity, fields = self._admit(request), read_body(request)
        name = fields.required("webhook", "webhook required")
        with audited("admin.webhook.enable", **_who(request, identity), webhook=name):
            await self._webhooks.enable(name)
        send_nothing(request)

    async def _act_on_webhook(
        self, request: SiteRequest, what: str, act: Callable[[str, str | None], Awaitable[int]]
    ) -> int:
        identity, fields = self._admit(request), read_body(request)
        name = fields.required("webhook", "webhook required")
        letter = fields.text("id") or None
        with audited(
            f"admin.webhook.{what}", **_who(request, identity), webhook=name, letter=letter
        ) as told:
            told["count"] = count = await act(name, letter)
        return count

    # --- Documentation ------------------------------------------------------------------------

    @app.route("/openapi.json", methods=["GET"])
    def openapi_json(self, request: Request) -> bytes:
        """Describe this API, as JSON."""
        return send_tagged(request, self._document.json, b"no-cache")

    @app.route("/openapi.yaml", methods=["GET"])
    def openapi_yaml(self, request: Request) -> bytes:
        """Describe this API, as YAML."""
        return send_tagged(request, self._document.yaml, b"no-cache")

    @app.route("/docs", methods=["GET"])
    def docs(self, request: Request) -> bytes:
        """Show the description of this API to a person."""
        return send_page(request)

    @app.route("/docs/<name>", methods=["GET"])
    def docs_file(self, request: Request, name: str) -> bytes:
        """Give a file that the page needs."""
        if name not in FILES:
            raise NotFound
        return send_file(request, name)

    # --- Errors -------------------------------------------------------------------------------

    @app.handle_errors(Exception)
    def failed(self, request: IRequest, failure: Failure) -> bytes | None:
        """Render whatever a route raised."""
        return send_failure(cast("Request", request), failure)


# A second slash in a path is a mistake to tell, not to redirect: the redirection would name
# whatever host the request did.
Api.app.url_map.merge_slashes = False
# werkzeug adds HEAD wherever GET is allowed; a stream has no length to tell.
for _rule in Api.app.url_map.iter_rules("events"):
    _rule.methods = {"GET"}


def _who(request: SiteRequest, identity: Identity) -> dict[str, Field | None]:
    """Give who asks, as the audit log has it."""
    return {"address": request.address, "ext": identity.ext}


def _which(call: ConnectionID) -> dict[str, Field | None]:
    """Give what is acted on, as the audit log has it."""
    return {"call_id": call.call_id, "device_id": call.device_id}


def _send_grant(request: Request, grant: Grant) -> bytes:
    answer = {
        "token_type": "Bearer",
        "access_token": grant.token,
        "expires_in": grant.expires_in,
    }
    return send_json(request, answer)


def _connection(fields: Fields) -> ConnectionID:
    return ConnectionID(
        call_id=fields.call_id("callId", "bad call id"),
        device_id=fields.required("deviceId", "device id required"),
    )


def _active_connection(fields: Fields) -> ConnectionID:
    return ConnectionID(
        call_id=fields.call_id("activeCallId", "bad active call id"),
        device_id=fields.required("activeDeviceId", "active device id required"),
    )


def _destination(fields: Fields) -> str:
    return fields.required("destination", "destination phone required")


def _topics(request: Request) -> frozenset[Topic]:
    """Give what the stream is to be about; the calls alone unless the query says more.

    Raises:
        BadRequest: There is no such topic.
    """
    text = read_query(request).text("topics")
    if text is None:
        return CALLS_ALONE
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(Topic):
        raise BadRequest(f"topics are {', '.join(Topic)}")
    return frozenset(map(Topic, names))


def _last_event_id(request: Request) -> int | None:
    """Give the id after which the client wants to go on; header before query."""
    text = request.getHeader("last-event-id") or read_query(request).text("lastEventId")
    if not text:
        return None
    known = text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS
    return int(text) if known else UNKNOWN_ID
