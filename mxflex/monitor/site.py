"""The endpoint for probes and for Prometheus, apart from the one for clients."""

from __future__ import annotations

from typing import cast

from klein import Klein
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from twisted.internet.interfaces import IReactorTime
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest

from mxflex.monitor.health import Check, Health
from mxflex.web.render import send_failure, send_json
from mxflex.web.routes import Routes
from mxflex.web.site import MXFlexSite


class Monitor:
    """The routes; none needs a token.

    Args:
        health: Whether the daemon is ready.
        registry: Its figures.
    """

    app = Klein()

    def __init__(self, health: Health, registry: CollectorRegistry) -> None:
        self._health = health
        self._registry = registry

    @app.route("/healthz", methods=["GET"])
    def healthz(self, request: Request) -> bytes:
        """Say that the process answers; one that hangs does not."""
        return send_json(request, {"status": "ok"})

    @app.route("/readyz", methods=["GET"])
    def readyz(self, request: Request) -> bytes:
        """Say whether the daemon can do all of its work, and what keeps it: 200 or 503."""
        checks = self._health.checks()
        ready = all(check.ok for check in checks)
        answer = {"status": "ok" if ready else "unavailable", "checks": [*map(_shown, checks)]}
        return send_json(request, answer, 200 if ready else 503)

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: Request) -> bytes:
        """Give the figures, in the form that the scraper asks for."""
        encode, content_type = choose_encoder(request.getHeader("accept") or "")
        request.setHeader("content-type", content_type)
        request.setHeader("cache-control", "no-store")
        return encode(self._registry)

    @app.handle_errors(Exception)
    def failed(self, request: IRequest, failure: Failure) -> bytes | None:
        """Render whatever a route raised."""
        return send_failure(cast("Request", request), failure)


Monitor.app.url_map.merge_slashes = False


def _shown(check: Check) -> dict[str, object]:
    reason = {"reason": check.reason} if check.reason else {}
    return {"name": check.name, "ok": check.ok, **reason}


class MonitorSite(MXFlexSite):
    """Its HTTP server. Who asks every few seconds is logged at level debug alone."""

    access_level = LogLevel.debug

    def __init__(self, health: Health, registry: CollectorRegistry, clock: IReactorTime) -> None:
        super().__init__(Routes(Monitor(health, registry).app), clock, ())
