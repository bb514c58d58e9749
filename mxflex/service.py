"""The composition root: a configuration becomes the tree of services that is the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pem
from OpenSSL import SSL, crypto
from treq.client import HTTPClient
from twisted.application.service import MultiService
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IReactorTime
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.logger import Logger
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
from mxflex.ports import ListeningPort, main_endpoints, plain_endpoints
from mxflex.process import InTurn, OpenFiles, SpareMemory
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

# An orderly stop takes no longer, in seconds, or is cut short. What its parts take at the most is
# less, but a machine may be too busy for them.
STOP_SECONDS = 4.25
# How long a connection to a receiver of webhooks is kept that is not used, in seconds. Servers
# close theirs after 2 and more.
KEEP_SECONDS = 1


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
    connections, then the streams end, then the link takes its leave from the MX, then what shall
    outlive the process is saved. Each is quick, whatever others do, so that all of it takes less
    than five seconds.

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
    open_files = OpenFiles(admission)
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
            ListeningPort(reactor, description, monitor, "monitor.listen").setServiceParent(daemon)
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
        ListeningPort(reactor, description, site).setServiceParent(daemon)
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
    is_address = isIPAddress(config.host) or isIPv6Address(config.host)
    binding = config.port == HTTPS_PORT and not is_address
    site = SecureSite(root, reactor, config.proxies, lambda: binding and serving.real)
    secure = SecureFactory(serving, False, site, clock=reactor)
    for description in main_endpoints(config):
        ListeningPort(reactor, description, secure).setServiceParent(daemon)
    plain = MXFlexSite(PlainRoot(config.url, responder.answer), reactor, ())
    for description in plain_endpoints(config):
        ListeningPort(reactor, description, plain, "listen_http").setServiceParent(daemon)
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
