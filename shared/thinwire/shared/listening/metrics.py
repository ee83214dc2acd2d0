"""The figures of the guard for Prometheus, which the extras `sender` and `receiver` install."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from thinwire.shared.listening.guard import Listeners, Refusal


def connection_metrics(listeners: Listeners) -> Iterator[Metric]:
    """Open and refused connections of each listener."""
    opened = GaugeMetricFamily("thinwire_connections", "Open connections.", labels=["listener"])
    refused = CounterMetricFamily(
        "thinwire_connections_refused", "Connections refused or ended by the guard.", labels=["listener", "reason"]
    )
    for guard in listeners.guards:
        opened.add_metric([guard.name], guard.open)
        for reason in Refusal:
            refused.add_metric([guard.name, reason], guard.refused[reason])
    yield opened
    yield refused
