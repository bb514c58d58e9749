"""The figures of the daemon for Prometheus.

They are read from the objects that they are about when somebody asks; between, an event costs no
more than a few additions. No label has more values than there are names in this program, or
webhooks in its configuration.

Source: docs/monitoring.md lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isinf

import attrs
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from mxflex import __version__
from mxflex.certs.context import ServingCertificate
from mxflex.gateway.hub import Hub
from mxflex.gateway.login import Logins
from mxflex.gateway.tickets import Tickets
from mxflex.measures import Durations
from mxflex.mx.link import LinkState, ServerLink
from mxflex.mx.protocol import CommandFigures
from mxflex.web.eventstream import EventStreams
from mxflex.webhooks.dispatch import Webhooks


@attrs.frozen(kw_only=True)
class Sources:
    """What is told about.

    Attributes:
        streams: The event streams.
        hub: The fan-out.
        logins: The logins.
        tickets: The tickets.
        link: The server connection.
        commands: How the MX answers.
        certificate: What HTTPS shows; None without HTTPS.
        webhooks: Where events are posted to.
    """

    streams: EventStreams
    hub: Hub
    logins: Logins
    tickets: Tickets
    link: ServerLink
    commands: CommandFigures
    certificate: ServingCertificate | None
    webhooks: Webhooks


def make_registry(sources: Sources) -> CollectorRegistry:
    """Make a registry of its own, with the figures of the daemon, the process and Python."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(DaemonCollector(sources))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class DaemonCollector(Collector):
    """Reads the figures of the daemon."""

    def __init__(self, sources: Sources) -> None:
        self._of = sources

    def collect(self) -> Iterator[Metric]:
        """Give all of them as they are at this moment."""
        yield _gauge("mxflex_info", "The version of MXFlex.", {__version__: 1}, "version")
        yield from self._streams()
        yield from self._events()
        yield _counter("mxflex_logins", "Logins, by result.", self._of.logins.results, "result")
        yield _counter(
            "mxflex_renewals", "Renewals of tokens, by result.", self._of.logins.renewals, "result"
        )
        yield _counter(
            "mxflex_tickets", "Tickets for streams, by result.", self._of.tickets.results, "result"
        )
        yield from self._link()
        yield from self._commands()
        yield from self._certificate()
        yield from self._webhooks()

    def _streams(self) -> Iterator[Metric]:
        streams = self._of.streams
        yield _gauge("mxflex_streams_open", "Event streams that are open.", streams.count)
        yield _gauge("mxflex_streams_limit", "Event streams that may be open.", streams.limit)
        yield _counter("mxflex_streams_opened", "Event streams opened.", streams.opened)
        yield _counter("mxflex_streams_ended", "Event streams ended.", streams.ended)
        yield _counter(
            "mxflex_streams_cut_off",
            "Event streams cut off, since their client did not read.",
            streams.cut_off,
        )
        yield _counter(
            "mxflex_streams_refused",
            "Event streams refused, by the limit.",
            streams.refused,
            "limit",
        )

    def _events(self) -> Iterator[Metric]:
        hub = self._of.hub
        yield _counter(
            "mxflex_mx_events", "Events from the MX, by name.", self._of.link.events, "event"
        )
        yield _counter(
            "mxflex_events_published", "Events for streams, by name.", hub.published, "event"
        )
        yield _counter(
            "mxflex_events_sent", "Copies of events given to streams as they came.", hub.sent
        )
        fan_out = HistogramMetricFamily(
            "mxflex_fan_out_seconds",
            "From the byte of the MX to the last stream, for what one turn of the reactor brings.",
        )
        fan_out.add_metric([], _buckets(hub.durations), hub.durations.total)
        yield fan_out

    def _link(self) -> Iterator[Metric]:
        link = self._of.link
        yield _gauge("mxflex_mx_link_up", "Whether the server connection is up.", int(link.up))
        yield _gauge(
            "mxflex_mx_link_state",
            "Where the server connection stands: 1 for that state.",
            {state.value: int(state is link.state) for state in LinkState},
            "state",
        )
        yield _counter(
            "mxflex_mx_link_attempts", "Tries to make the server connection.", link.attempts
        )
        yield _counter(
            "mxflex_mx_link_connects", "How often the server connection came up.", link.connects
        )
        yield _gauge(
            "mxflex_monitors_wanted", "Extensions to be watched.", len(link.monitors.wanted)
        )
        yield _gauge(
            "mxflex_monitors_missing",
            "Extensions to be watched whose monitor does not run.",
            len(link.monitors.missing),
        )
        yield _gauge(
            "mxflex_contacts", "People in the address book.", len(link.address_book.entries)
        )

    def _commands(self) -> Iterator[Metric]:
        commands = self._of.commands
        results = CounterMetricFamily(
            "mxflex_mx_commands",
            "Commands to the MX, by name and result.",
            labels=("command", "result"),
        )
        for labels, count in commands.results.items():
            results.add_metric(labels, count)
        yield results
        durations = HistogramMetricFamily(
            "mxflex_mx_command_seconds",
            "How long the MX took to answer a command.",
            labels=("command",),
        )
        for name, each in commands.durations.items():
            durations.add_metric([name], _buckets(each), each.total)
        yield durations

    def _certificate(self) -> Iterator[Metric]:
        serving = self._of.certificate
        if serving is None:
            return
        yield _gauge(
            "mxflex_certificate_real",
            "Whether HTTPS shows a certificate that is more than a stand-in.",
            int(serving.real),
        )
        yield _gauge(
            "mxflex_certificate_not_after_timestamp_seconds",
            "When the certificate that HTTPS shows ends, in seconds since the epoch.",
            serving.certificate.not_valid_after_utc.timestamp(),
        )

    def _webhooks(self) -> Iterator[Metric]:
        hooks = self._of.webhooks.hooks
        if not hooks:
            return
        of = hooks.items()
        yield _gauge(
            "mxflex_webhook_queue_usable",
            "Whether the latest use of the file in which messages wait for webhooks went well.",
            int(self._of.webhooks.queue_usable),
        )
        yield _gauge(
            "mxflex_webhook_queued",
            "Messages that wait for their receiver, by webhook.",
            {name: hook.state.queued for name, hook in of},
            "webhook",
        )
        yield _gauge(
            "mxflex_webhook_dead",
            "Messages that were given up, and are kept, by webhook.",
            {name: hook.state.dead for name, hook in of},
            "webhook",
        )
        yield _gauge(
            "mxflex_webhook_failing",
            "Whether the latest attempts have failed, by webhook.",
            {name: int(hook.failing_since is not None) for name, hook in of},
            "webhook",
        )
        yield _gauge(
            "mxflex_webhook_disabled",
            "Whether the receiver wants nothing any more, by webhook.",
            {name: int(hook.state.disabled is not None) for name, hook in of},
            "webhook",
        )
        yield _counter(
            "mxflex_webhook_delivered",
            "Messages that their receivers have, by webhook.",
            {name: hook.delivered for name, hook in of},
            "webhook",
        )
        yield _counter(
            "mxflex_webhook_failed",
            "Attempts that failed, by webhook.",
            {name: hook.failed for name, hook in of},
            "webhook",
        )
        yield _counter(
            "mxflex_webhook_dropped",
            "Messages that found no room in the queue, by webhook.",
            {name: hook.dropped for name, hook in of},
            "webhook",
        )
        yield _counter(
            "mxflex_webhook_died",
            "Messages that were given up, by webhook.",
            {name: hook.died for name, hook in of},
            "webhook",
        )
        durations = HistogramMetricFamily(
            "mxflex_webhook_delivery_seconds",
            "From an event until its receiver has it.",
            labels=("webhook",),
        )
        for name, hook in of:
            durations.add_metric([name], _buckets(hook.durations), hook.durations.total)
        yield durations


_Values = float | Mapping[str, int]
# As the library has it; the last part is for examples, of which there are none here.
_Bucket = tuple[str, float] | tuple[str, float, Exemplar]


def _gauge(name: str, text: str, values: _Values, label: str = "") -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=[label] if label else []), values)


def _counter(name: str, text: str, values: _Values, label: str = "") -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=[label] if label else []), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: _Values) -> Metric:
    """Give a family its values: one, or one for each value of its label."""
    if isinstance(values, Mapping):
        for label, value in values.items():
            family.add_metric([label], value)
    else:
        family.add_metric([], values)
    return family


def _buckets(durations: Durations) -> list[_Bucket]:
    return [("+Inf" if isinf(bound) else str(bound), count) for bound, count in durations.up_to()]
