"""The clinic's figures for Prometheus, read when they are asked for. No label names a study or a patient."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.sender.page.facts import ClinicState
from thinwire.sender.transport import link_status
from thinwire.sender.transport.link_status import LinkState

_OPEN = (PartState.MISSING, PartState.HELD, PartState.WAITING)


class ClinicMetrics(Collector):
    """Names and meanings: docs/technician.md."""

    def __init__(self, clinic: ClinicState) -> None:
        self._clinic = clinic

    def collect(self) -> Iterator[Metric]:
        current_policy, outbox = self._clinic.current_policy(), self._clinic.outbox
        entries = outbox.entries()
        link = link_status.read_status(outbox.folder, current_policy.now)
        states = Counter(entry.state for entry in entries)
        studies = GaugeMetricFamily("thinwire_studies", "Studies at the clinic.", labels=["state"])
        for state in EntryState:
            studies.add_metric([state], states[state])
        yield studies
        parts = Counter((part.kind.name.lower(), str(part.state)) for entry in entries for part in entry.parts)
        family = GaugeMetricFamily("thinwire_parts", "Parts of studies.", labels=["tier", "state"])
        for labels, count in sorted(parts.items()):
            family.add_metric(labels, count)
        yield family
        waiting = [part.size for entry in entries for part in entry.parts if part.state is PartState.WAITING]
        yield GaugeMetricFamily("thinwire_waiting_bytes", "Sealed bytes that wait for the link.", sum(waiting))
        unsent = [entry.accepted for entry in entries if any(part.state in _OPEN[::2] for part in entry.parts)]
        age = (current_policy.now - min(unsent)).total_seconds() if unsent else 0.0
        yield GaugeMetricFamily("thinwire_oldest_unsent_seconds", "Age of the oldest study not at the hub whole.", age)
        connected = link.state is LinkState.CONNECTED
        yield GaugeMetricFamily("thinwire_link_connected", "Whether the link to the hub stands.", connected)
        yield GaugeMetricFamily("thinwire_link_bytes_per_second", "Measured rate of the link.", link.rate or 0.0)
        yield GaugeMetricFamily("thinwire_link_round_trip_seconds", "Measured.", link.round_trip or 0.0)
        yield GaugeMetricFamily("thinwire_paused", "Whether a person paused all sending.", current_policy.paused)
        yield GaugeMetricFamily(
            "thinwire_month_link_bytes", "Bytes on the link this calendar month.", current_policy.used
        )
        if current_policy.policy.budget is not None:
            yield GaugeMetricFamily("thinwire_month_budget_bytes", "The month's budget.", current_policy.policy.budget)
        yield GaugeMetricFamily("thinwire_arriving_studies", "Studies that machines send now.", self._clinic.coming())
        refused = self._clinic.quarantine.count()
        yield GaugeMetricFamily("thinwire_quarantine_files", "Refused files with their reasons.", refused)
        yield GaugeMetricFamily("thinwire_disk_free_bytes", "Free for studies.", self._clinic.free())
