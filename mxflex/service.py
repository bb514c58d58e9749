"""The composition root: a configuration becomes the tree of services that is the daemon."""

from __future__ import annotations

import ctypes
import resource
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pem
from OpenSSL import SSL, crypto
from treq.client import HTTPClient
from twisted.application.internet import StreamServerEndpointService, TimerService
from twisted.application.service import MultiService, Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as StoppingTakesTooLong
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamServerEndpoint
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import IResource

from mxflex.certs.context import ServingCertificate
from mxflex.certs.files import CertificateFiles
from mxflex.certs.http import HTTPSPolicy, make_http
from mxflex.certs.issuing import CertificateService
from mxflex.certs.responder import ChallengeResponder
from mxflex.certs.store import CertificateFile
from mxflex.changes import Changeable, look_at_html, look_at_webhooks
from mxflex.clock import SteadyTimers
from mxflex.config import (
    HTTP_PORT,
    HTTPS_PORT,
    AcmeSettings,
    Config,
    MXSettings,
    WebhookSettings,
)
from mxflex.disk import DiskThread
from mxflex.errors import CertificateError, ConfigError
from mxflex.gateway.admission import Admission
from mxflex.gateway.calls import CallRegistry, Calls
from mxflex.gateway.contacts import Contacts
from mxflex.gateway.directory import Directory
from mxflex.gateway.hub import Hub
from mxflex.gateway.login import Logins
from mxflex.gateway.logouts import LogoutFile, Logouts
from mxflex.gateway.numbers import Numbers
from mxflex.gateway.relay import Encoders, Relay
from mxflex.gateway.sessions import Sessions
from mxflex.gateway.throttle import Throttle
from mxflex.gateway.tickets import Tickets
from mxflex.gateway.tokens import Tokens
from mxflex.monitor.health import Health
from mxflex.monitor.metrics import Sources, make_registry
from mxflex.monitor.site import MonitorSite
from mxflex.monitor.systemd import SystemdNotifier
from mxflex.mx.link import ServerLink
from mxflex.mx.session import Dialer
from mxflex.mx.tls import PeerPolicy
from mxflex.mx.verify import LoginCheck
from mxflex.reload import Part, Reloader
from mxflex.web.app import Api
from mxflex.web.audience import SocketAudience
from mxflex.web.eventjson import (
    encode_call_event,
    encode_gap,
    encode_status,
    encode_webhook,
    encode_webhook_gap,
)
from mxflex.web.eventstream import EventStreams, encode_sse
from mxflex.web.listings import encode_contact_event
from mxflex.web.secure import PlainRoot, SecureFactory, SecureSite
from mxflex.web.site import CrossOrigin, MXFlexSite, Root
from mxflex.web.static import StaticFiles
from mxflex.webhooks.connections import Endpoints
from mxflex.webhooks.delivery import Receiver
from mxflex.webhooks.dispatch import Hook, Webhooks
from mxflex.webhooks.message import Writer
from mxflex.webhooks.queue import Queue

log = Logger()

# Connections that may wait to be accepted. After a restart all clients come back within seconds;
# with Twisted's 50, most would have to try again a second later.
BACKLOG = 1024
# An orderly stop takes no longer, in seconds, or is cut short. What its parts take at the most is
# less, but a machine may be too busy for them.
STOP_SECONDS = 4.25
# Files that are open beside the event streams: ports, the link, logins on their way to the MX,
# other requests.
OTHER_FILES = 512
# How often memory that is free is given back.
TRIM_SECONDS = 60.0
# How long a connection to a receiver of webhooks is kept that is not used, in seconds. Servers
# close theirs after 2 and more.
KEEP_SECONDS = 1
# How endpoints begin whose sockets systemd opens.
SYSTEMD = "systemd:"


def build(
    config: Config,
    reactor: IReactorTime,
    environ: Mapping[str, str] | None = None,
    *,
    read: Callable[[], Config] | None = None,
    parts: Sequence[Part] = (),
) -> MultiService:
    """Make the daemon, not yet started.

    When it stops, its children stop one after the other, from the last to the first: no new
    connections, then the streams end, then the link takes its leave from the MX. Each is quick,
    whatever others do, so that all of it takes less than five seconds.

    Args:
        config: What it shall be.
        reactor: Where it will run.
        environ: The environment, where systemd says how it wants to be told of the daemon.
        read: Reads the configuration again; None where there is no file to read.
        parts: What else than the daemon can take over of another configuration.

    Raises:
        ConfigError: A value is of the right form but cannot be used: a CA file without
            certificates, an endpoint that Twisted does not know.
    """
    clock = reactor.seconds
    dialer = make_dialer(config.mx, reactor)
    link = ServerLink(reactor, dialer, config.mx.login, config.mx.password)
    hub = Hub(
        clock,
        encode_sse,
        encode_gap,
        config.events.history,
        later=lambda act: reactor.callLater(0, act),
        arrived=lambda: link.arrived,
        audience=SocketAudience,
    )
    calls = Calls(link, CallRegistry(clock), config.calls.restrict)
    encoders = Encoders(call=encode_call_event, contact=encode_contact_event, status=encode_status)
    relay = Relay(reactor, hub, calls, link.monitors, encoders)
    link.listen(relay)
    contacts = Contacts(link.address_book)
    directory = Directory(link.address_book, contacts, Numbers(config.numbers.country))
    # Before the relay: who hears of a change finds it.
    link.address_book.listen(directory)
    link.address_book.listen(relay)
    logouts = _make_logouts(config, reactor)
    sessions = Sessions(reactor, link.monitors, hub, calls, logouts)
    webhooks = _make_webhooks(config, reactor)
    watch_for_webhooks = partial(_watch_for_webhooks, webhooks, hub, sessions)
    watch_for_webhooks(config.webhooks)
    events = config.events
    admission = Admission(events.max_per_token, events.max_per_address, events.max_streams)
    streams = EventStreams(reactor, sessions, admission, events.heartbeat, events.max_unsent)
    check = LoginCheck(dialer, config.login.parallel, config.login.queue)
    throttle = Throttle(config.login.max_failures, config.login.window)
    tokens = Tokens(config.token.lifetime, config.token.key, config.token.max_age)
    logins = Logins(
        reactor, check, throttle, tokens, sessions, refusal_step=config.login.refusal_step
    )
    tickets = Tickets(clock)
    api = Api(
        logins,
        tickets,
        streams,
        calls,
        contacts,
        directory=directory,
        webhooks=webhooks,
        admins=frozenset(config.admin.extensions),
        token_in_url=config.token.in_url,
    )
    files = StaticFiles(config.html, config.frames)
    look_at_html(config)
    root = Root(api.resource(), files, CrossOrigin(frozenset(config.cors)))

    daemon = InTurn(reactor, STOP_SECONDS)
    daemon.setName("mxflex")
    open_files = _OpenFiles(admission)
    for child in (
        open_files,
        SpareMemory(reactor),
        SteadyTimers(reactor),
        # Before the ports are open, and until they are closed.
        logouts,
        # Stopped behind the link, whose last events it saves.
        webhooks,
        link,
        streams,
    ):
        child.setServiceParent(daemon)
    certificate = ServingCertificate(config.host) if config.https else None
    site, own_files = _serve(config, reactor, root, daemon, certificate)
    if config.monitor.listen:
        sources = Sources(
            streams=streams,
            hub=hub,
            logins=logins,
            tickets=tickets,
            link=link,
            commands=dialer.figures,
            certificate=certificate,
            webhooks=webhooks,
        )
        monitor = MonitorSite(Health(clock, link, certificate), make_registry(sources), reactor)
        for description in config.monitor.listen:
            _Listener(reactor, description, monitor, "monitor.listen").setServiceParent(daemon)
    systemd = SystemdNotifier(reactor, environ or {})
    link.listen(systemd)
    systemd.setServiceParent(daemon)

    changeable = Changeable(
        admission=admission,
        api=api,
        calls=calls,
        certificates=own_files,
        check=check,
        dialer=dialer,
        directory=directory,
        expect_streams=open_files.expect,
        files=files,
        hub=hub,
        link=link,
        logins=logins,
        make_dialer=lambda mx: make_dialer(mx, reactor),
        make_receiver=lambda hook: make_receiver(hook, reactor),
        mx=config.mx,
        root=root,
        site=site,
        streams=streams,
        throttle=throttle,
        tokens=tokens,
        watch_for_webhooks=watch_for_webhooks,
        webhooks=webhooks,
    )
    Reloader(
        reactor,
        read,
        config,
        parts=[*changeable.parts(), *parts],
        always=[] if own_files is None else [own_files.reload],
        witnesses=[systemd],
    ).setServiceParent(daemon)
    return daemon


def _serve(
    config: Config,
    reactor: IReactorTime,
    root: IResource,
    daemon: MultiService,
    certificate: ServingCertificate | None,
) -> tuple[MXFlexSite, CertificateFiles | None]:
    """Add the ports of the API; see `_serve_https`, without which they are plain HTTP."""
    if certificate is not None:
        return _serve_https(config, reactor, root, daemon, certificate)
    site = MXFlexSite(root, reactor, config.proxies)
    for description in main_endpoints(config):
        _Listener(reactor, description, site).setServiceParent(daemon)
    return site, None


def _serve_https(
    config: Config,
    reactor: IReactorTime,
    root: IResource,
    daemon: MultiService,
    serving: ServingCertificate,
) -> tuple[MXFlexSite, CertificateFiles | None]:
    """Add the HTTPS port, the plain one beside it, and whoever looks after the certificate.

    Returns:
        The site, and who reads the certificate where that is in files of one's own.
    """
    responder = ChallengeResponder()
    certificates: CertificateFiles | CertificateService
    if config.tls.certificate:
        try:
            certificates = CertificateFiles(
                reactor, serving, Path(config.tls.certificate), Path(config.tls.key)
            )
        except CertificateError as error:
            raise ConfigError("", "tls.certificate", str(error)) from error
    else:
        certificates = _issuing(config, reactor, serving, responder)
    certificates.setServiceParent(daemon)
    # HSTS binds the name on every port, so it is for the usual one alone; addresses know none.
    binding = config.port == HTTPS_PORT and not _is_address(config.host)
    site = SecureSite(root, reactor, config.proxies, lambda: binding and serving.real)
    secure = SecureFactory(serving, False, site, clock=reactor)
    for description in main_endpoints(config):
        _Listener(reactor, description, secure).setServiceParent(daemon)
    plain = MXFlexSite(PlainRoot(config.url, responder.answer), reactor, ())
    for description in plain_endpoints(config):
        _Listener(reactor, description, plain, "listen_http").setServiceParent(daemon)
    return site, certificates if isinstance(certificates, CertificateFiles) else None


def _issuing(
    config: Config,
    reactor: IReactorTime,
    serving: ServingCertificate,
    responder: ChallengeResponder,
) -> CertificateService:
    acme = config.acme
    return CertificateService(
        reactor,
        config.host,
        store=CertificateFile(Path(acme.storage), config.host),
        serving=serving,
        responder=responder,
        http=make_acme_http(acme, reactor),
        directory=acme.directory,
        email=acme.email,
        eab=(acme.eab_kid, acme.eab_key),
        profile=acme.profile,
    )


def make_acme_http(acme: AcmeSettings, reactor: IReactorTime) -> HTTPClient:
    """Make the HTTP client that trusts the ACME server.

    Raises:
        ConfigError: The CA file has no certificates.
    """
    return make_http(reactor, _trust(acme.ca_file, "acme.ca_file"))


def _trust(ca_file: str, key: str) -> Any:
    """Give the CAs of a file, or those of this system where none is named.

    Raises:
        ConfigError: The file has no certificates.
    """
    if not ca_file:
        return platformTrust()
    try:
        return trustRootFromCertificates(
            [
                Certificate.loadPEM(each.as_bytes())
                for each in pem.parse_file(ca_file)
                if isinstance(each, pem.Certificate)
            ]
        )
    except (SSL.Error, crypto.Error) as error:
        raise ConfigError(ca_file, key, "expected certificates") from error


def _watch_for_webhooks(
    webhooks: Webhooks, hub: Hub, sessions: Sessions, hooks: Sequence[WebhookSettings]
) -> None:
    """Let webhooks hear of each event, and have their extensions watched, and no others."""
    if hooks:
        hub.observe(webhooks)
    sessions.hold(ext for hook in hooks for ext in hook.extensions or ())


def _make_logouts(config: Config, reactor: Any) -> Logouts:
    """Make what remembers logouts: in memory alone, where tokens do not outlive the process."""
    if config.token.key is None:
        return Logouts(reactor)
    return Logouts(reactor, LogoutFile(Path(config.token.storage), DiskThread(reactor)))


def _make_webhooks(config: Config, reactor: Any) -> Webhooks:
    """Make whoever posts events to receivers elsewhere; without webhooks it does nothing.

    Raises:
        ConfigError: A CA file has no certificates.
    """
    hooks = [Hook(each, make_receiver(each, reactor)) for each in config.webhooks]
    look_at_webhooks(config)
    delivery = config.delivery
    queue = Queue(
        Path(delivery.storage),
        config.webhooks,
        max_queued=delivery.max_queued,
        max_age=delivery.max_age,
        max_dead=delivery.max_dead,
        gap=encode_webhook_gap,
    )
    return Webhooks(reactor, DiskThread(reactor), queue, Writer(encode_webhook), hooks=hooks)


def make_receiver(hook: WebhookSettings, reactor: IReactorTime) -> Receiver:
    """Make what posts to the receiver of a webhook.

    Raises:
        ConfigError: The CA file has no certificates.
    """
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = hook.parallel
    pool.cachedConnectionTimeout = KEEP_SECONDS
    endpoints = Endpoints(reactor, HTTPSPolicy(_trust(hook.ca_file, "webhooks")))
    agent = Agent.usingEndpointFactory(reactor, endpoints, pool)
    return Receiver(reactor, agent, hook, pool.closeCachedConnections)


def make_dialer(mx: MXSettings, reactor: IReactorTime) -> Dialer:
    """Make whoever opens connections to the MX.

    Raises:
        ConfigError: The CA file has no certificates.
    """
    try:
        policy = PeerPolicy(
            mx.host, mx.verify, mx.fingerprint, mx.tls_minimum, mx.tls_security_level
        )
    except SSL.Error as error:
        raise ConfigError(mx.verify, "mx.verify", "expected CA certificates in PEM form") from error
    # Whoever accepts any certificate by default has not decided to show passwords to anybody.
    meant = mx.verify_chosen or not policy.trusts_anybody
    return Dialer(
        reactor=reactor,
        host=mx.host,
        port=mx.port,
        policy=policy,
        timeout=mx.timeout,
        keepalive=mx.keepalive,
        clear_password=mx.clear_password and meant,
    )


def main_endpoints(config: Config) -> list[str]:
    """Give where the API is served, as Twisted endpoint strings."""
    return list(config.listen or _endpoints(config.host, config.port))


def plain_endpoints(config: Config) -> list[str]:
    """Give where plain HTTP leads to HTTPS, as Twisted endpoint strings."""
    if not config.https:
        return []
    beside = _endpoints(config.host, HTTP_PORT) if config.port == HTTPS_PORT else ()
    return list(config.listen_http or beside)


def _endpoints(host: str, port: int) -> Iterator[str]:
    """Give the endpoints that a host stands for: itself, or every interface for a name."""
    if host == "localhost":
        yield f"tcp:{port}:interface=127.0.0.1"
        if _has_ipv6():
            yield f"tcp6:{port}:interface={quoteStringArgument('::1')}"
    elif ":" in host:
        yield f"tcp6:{port}:interface={quoteStringArgument(host)}"
    elif isIPAddress(host):
        yield f"tcp:{port}:interface={host}"
    elif _has_ipv6():
        # Linux lets IPv4 clients in here, too.
        yield f"tcp6:{port}:interface={quoteStringArgument('::')}"
    else:
        yield f"tcp:{port}"


def _is_address(host: str) -> bool:
    return isIPAddress(host) or isIPv6Address(host)


def _has_ipv6() -> bool:
    """Tell whether this machine has IPv6 at all: containers often lack it."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _with_backlog(description: str) -> str:
    """Let a TCP endpoint queue many connections, unless it says how many itself."""
    kind, _, _ = description.partition(":")
    if kind in ("tcp", "tcp6") and "backlog=" not in description:
        return f"{description}:backlog={BACKLOG}"
    return description


class InTurn(MultiService):
    """Stops its children one after the other, the last one first.

    `MultiService` itself lets them all stop at once.

    Args:
        clock: Gives delayed calls.
        seconds: How long that may take; those that have not had their turn by then are left.
    """

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds

    def stopService(self) -> Deferred[None]:
        """Stop them; one that fails does not keep the others."""
        Service.stopService(self)
        stopping = Deferred.fromCoroutine(self._stop())
        return stopping.addTimeout(self._seconds, self._clock).addErrback(self._cut_short)

    async def _stop(self) -> None:
        for child in reversed(list(self)):
            try:
                await maybeDeferred(child.stopService)
            except CancelledError:
                raise
            except Exception:
                log.failure("{name} did not stop in order", name=child.name or type(child).__name__)

    def _cut_short(self, failure: Failure) -> None:
        failure.trap(StoppingTakesTooLong)
        log.warn("the stop took too long and is cut short")


class _OpenFiles(Service):
    """Lets the process have as many files open as the system lets it.

    The usual limit of 1024, which is there for the sake of select(2), would be the end of the
    thousandth stream. Where the system allows no more, fewer streams may be open: without a file
    for it there is neither an answer to a client nor a way back to the MX.

    Args:
        admission: Counts streams.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def startService(self) -> None:
        Service.startService(self)
        self._admission.max_streams = self.expect(self._admission.max_streams)

    def expect(self, max_streams: int) -> int:
        """Let so many streams be open, as far as that can be done, and give how many may."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            # What systemd's filter of system calls may forbid is not even tried without need.
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            except (ValueError, OSError) as error:
                log.warn("the limit of open files stays {files}: {error}", files=soft, error=error)
            else:
                soft = hard
        if soft == resource.RLIM_INFINITY or soft >= max_streams + OTHER_FILES:
            return max_streams
        may = min(max_streams, soft - min(OTHER_FILES, soft // 2))
        log.warn(
            "events.max_streams is {streams}, but with {files} files that this process may open"
            " it is {may}",
            streams=max_streams,
            files=soft,
            may=may,
        )
        return may


class SpareMemory(TimerService):
    """Gives memory that is free inside of the heap back to the system, once a minute.

    TLS connections that come and go leave holes in the heap of glibc, which keeps them for good:
    the process would grow for hours though nothing more is in use. It takes half a millisecond in a
    process of 100 MiB. Source: malloc_trim(3). Does nothing where there is no such function.

    Args:
        clock: Gives the time.
    """

    def __init__(self, clock: IReactorTime) -> None:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        super().__init__(TRIM_SECONDS, trim or (lambda _keep: 0), 0)
        self.clock = clock


def make_endpoint(reactor: IReactorTime, description: str, key: str) -> IStreamServerEndpoint:
    """Make what opens a port.

    Args:
        reactor: Opens it.
        description: Which, as a Twisted endpoint string.
        key: Where the configuration names it.

    Raises:
        ConfigError: Twisted does not know such an endpoint.
    """
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, _with_backlog(description))
    except (ValueError, TypeError, LookupError, AttributeError, OSError) as error:
        expected = f"expected endpoints such as tcp:8080, not {description!r}: {error}"
        if description.startswith(SYSTEMD):
            expected = f"systemd has given this process no socket for {description!r}"
        raise ConfigError("", key, expected) from error
    return endpoint


class _Listener(StreamServerEndpointService):
    """A listening port; the daemon does not start without it.

    Args:
        reactor: Opens it.
        description: Which, as a Twisted endpoint string.
        factory: Makes the protocol of each connection.
        key: Where the configuration names it.

    Raises:
        ConfigError: See `make_endpoint`.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        description: str,
        factory: IProtocolFactory,
        key: str = "listen",
    ) -> None:
        endpoint = make_endpoint(reactor, description, key)
        super().__init__(endpoint, factory)
        self._description = description

    def privilegedStartService(self) -> None:
        """Open the port, before privileges are dropped.

        Raises:
            SystemExit: The port cannot be had; one line says which and why.
        """
        # Twisted opens ports at once, so whatever is wrong is known here. Raised from a callback it
        # would be swallowed, and a daemon without its port would run on.
        failures: list[Failure] = []
        opening: Deferred[object] = self.endpoint.listen(self.factory)
        self._waitingForPort = opening.addCallbacks(self._opened, failures.append)
        for failure in failures:
            raise SystemExit(f"{self._description}: {failure.getErrorMessage()}")

    def _opened(self, port: object) -> object:
        log.info("listening on {endpoint}", endpoint=self._description)
        return port
