"""What each part of the daemon does when its values in the configuration change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from twisted.logger import Logger

from mxflex.certs.files import CertificateFiles
from mxflex.config import Config, MXSettings, WebhookSettings
from mxflex.errors import CertificateError, ConfigError
from mxflex.gateway.admission import Admission
from mxflex.gateway.calls import Calls
from mxflex.gateway.directory import Directory
from mxflex.gateway.hub import Hub
from mxflex.gateway.login import Logins
from mxflex.gateway.numbers import Numbers
from mxflex.gateway.throttle import Throttle
from mxflex.gateway.tokens import Tokens
from mxflex.mx.link import ServerLink
from mxflex.mx.session import Dialer
from mxflex.mx.verify import LoginCheck
from mxflex.reload import (
    AT_ONCE,
    NEW_MX_CONNECTIONS,
    NEW_STREAMS,
    NEW_TOKENS,
    Commit,
    Part,
)
from mxflex.web.app import Api
from mxflex.web.eventstream import EventStreams
from mxflex.web.site import CrossOrigin, MXFlexSite, Root
from mxflex.web.static import StaticFiles
from mxflex.webhooks.delivery import Receiver
from mxflex.webhooks.dispatch import Webhooks

log = Logger()


@attrs.frozen(kw_only=True)
class Changeable:
    """The parts of a daemon that take over other values while they run.

    Attributes:
        mx: The MX as it was when the daemon was made, which stays the same one.
        make_dialer: Makes a dialer for other values; raises `ConfigError`.
        expect_streams: Sees to it that so many may be open, and gives how many may.
        make_receiver: Makes what posts to the receiver of a webhook; raises `ConfigError`.
        certificates: Who reads the certificate from files; None where it comes otherwise.
        watch_for_webhooks: Has the extensions of webhooks watched, and no others for their sake.
    """

    admission: Admission
    api: Api
    calls: Calls
    certificates: CertificateFiles | None
    check: LoginCheck
    dialer: Dialer
    directory: Directory
    expect_streams: Callable[[int], int]
    files: StaticFiles
    hub: Hub
    link: ServerLink
    logins: Logins
    make_dialer: Callable[[MXSettings], Dialer]
    make_receiver: Callable[[WebhookSettings], Receiver]
    mx: MXSettings
    root: Root
    site: MXFlexSite
    streams: EventStreams
    throttle: Throttle
    tokens: Tokens
    watch_for_webhooks: Callable[[Sequence[WebhookSettings]], None]
    webhooks: Webhooks

    def parts(self) -> list[Part]:
        """Give what can be taken over, and by whom."""
        return [
            _part(
                self._limit_streams,
                *("events.max_per_token", "events.max_per_address", "events.max_streams"),
            ),
            _part(lambda new: self.streams.beat_every(new.events.heartbeat), "events.heartbeat"),
            _part(lambda new: self.hub.keep(new.events.history), "events.history"),
            _part(self._bound_streams, "events.max_unsent", when=NEW_STREAMS),
            _part(
                lambda new: self.throttle.limit(new.login.max_failures, new.login.window),
                *("login.max_failures", "login.window"),
            ),
            _part(
                lambda new: self.check.limit(new.login.parallel, new.login.queue),
                *("login.parallel", "login.queue"),
            ),
            _part(self._hide_refusals, "login.refusal_step"),
            _part(self._make_tokens, "token.lifetime", "token.max_age", when=NEW_TOKENS),
            _part(lambda new: self.api.take_tokens_in_urls(new.token.in_url), "token.in_url"),
            _part(self._restrict_calls, "calls.restrict"),
            _part(self._name_admins, "admin.extensions"),
            _part(lambda new: self.directory.use(Numbers(new.numbers.country)), "numbers.country"),
            _part(self._let_sites_in, "cors"),
            _part(lambda new: self.files.let_frame(new.frames), "frames"),
            _part(self._believe_proxies, "proxies"),
            _part(self._serve_files, "html"),
            Part(
                NEW_MX_CONNECTIONS,
                (
                    *("mx.login", "mx.password", "mx.password_file", "mx.verify"),
                    *("mx.fingerprint", "mx.timeout", "mx.keepalive", "mx.tls_minimum"),
                    *("mx.tls_security_level", "mx.clear_password"),
                ),
                self._reach_the_mx,
            ),
            Part(AT_ONCE, ("tls.certificate", "tls.key"), self._show_certificate),
            Part(
                AT_ONCE,
                ("webhooks", "delivery.max_queued", "delivery.max_age", "delivery.max_dead"),
                self._post_events,
            ),
        ]

    def _limit_streams(self, new: Config) -> None:
        limits = new.events
        may = self.expect_streams(limits.max_streams)
        self.admission.limit(limits.max_per_token, limits.max_per_address, may)

    def _bound_streams(self, new: Config) -> None:
        self.streams.max_unsent = new.events.max_unsent

    def _hide_refusals(self, new: Config) -> None:
        self.logins.refusal_step = new.login.refusal_step

    def _make_tokens(self, new: Config) -> None:
        self.tokens.lifetime, self.tokens.max_age = new.token.lifetime, new.token.max_age

    def _restrict_calls(self, new: Config) -> None:
        self.calls.restrict = new.calls.restrict

    def _name_admins(self, new: Config) -> None:
        self.api.admins = frozenset(new.admin.extensions)

    def _let_sites_in(self, new: Config) -> None:
        self.root.cross_origin = CrossOrigin(frozenset(new.cors))

    def _believe_proxies(self, new: Config) -> None:
        self.site.proxies = new.proxies

    def _serve_files(self, new: Config) -> None:
        look_at_html(new)
        self.files.use(new.html)

    def _reach_the_mx(self, new: Config) -> Commit:
        # The server stays: the calls, people and tokens here are not those of another.
        account = attrs.evolve(new.mx, host=self.mx.host, port=self.mx.port)
        return partial(self._use_account, account, self.make_dialer(account))

    def _use_account(self, account: MXSettings, terms: Dialer) -> None:
        self.dialer.use(terms)
        self.link.use(account.login, account.password)

    def _show_certificate(self, new: Config) -> Commit | None:
        if self.certificates is None or not new.tls.certificate:
            return None
        try:
            return self.certificates.prepare(Path(new.tls.certificate), Path(new.tls.key))
        except CertificateError as error:
            raise ConfigError("", "tls.certificate", str(error)) from error

    def _post_events(self, new: Config) -> Commit:
        hooks = [(each, self.make_receiver(each)) for each in new.webhooks]
        return partial(self._use_webhooks, new, hooks)

    def _use_webhooks(self, new: Config, hooks: list[tuple[WebhookSettings, Receiver]]) -> None:
        look_at_webhooks(new)
        self.webhooks.use(hooks, new.delivery)
        self.watch_for_webhooks(new.webhooks)


def look_at_html(config: Config) -> None:
    """Say when there are no static files."""
    if not Path(config.html).is_dir():
        log.warn("there is no folder {html}: no static files", html=config.html)


def look_at_webhooks(config: Config) -> None:
    """Say which webhooks anybody could read on their way."""
    for hook in config.webhooks:
        url = urlsplit(hook.url)
        if url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
            log.warn("webhook {name} goes out without TLS: anybody can read it", name=hook.name)


def _part(take: Callable[[Config], object], *keys: str, when: str = AT_ONCE) -> Part:
    """Make a part whose values can always be used."""
    return Part(when, keys, lambda new: partial(take, new))
