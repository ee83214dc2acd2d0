"""The clinic's figures for Prometheus, read when they are asked for. No label names a study or a patient."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.sender.page.facts import ClinicState
from thinwire.sender.transport import link_status
from thinwire.sender.transport.credentials import left_of
from thinwire.sender.transport.link_status import LinkState
from thinwire.shared.listening.metrics import connection_metrics


class ClinicMetrics(Collector):
    """Names and meanings: docs/technician.md."""

    def __init__(self, clinic: ClinicState) -> None:
        self._clinic = clinic

    def collect(self) -> Iterator[Metric]:
        for family in (self._free, self._parked, self._certificate, self._studies):
            # One that cannot be read leaves the others.
            with self._clinic.outbox.parked.guard(f"metrics {family.__name__.strip('_')}"):
                yield from list(family())

    def _free(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("thinwire_disk_free_bytes", "Free for studies.", self._clinic.free())

    def _parked(self) -> Iterator[Metric]:
        parked = GaugeMetricFamily("thinwire_parked", "Items that failed alone, and wait.", labels=["loop"])
        for loop, count in self._clinic.outbox.parked.counts().items():
            parked.add_metric([loop], count)
        yield parked

    def _certificate(self) -> Iterator[Metric]:
        if (certificate := self._clinic.certificate()) is not None:
            left = left_of(certificate, self._clinic.current_policy().now).total_seconds()
            yield GaugeMetricFamily("thinwire_certificate_expires_seconds", "Until the certificate ends.", left)

    def _studies(self) -> Iterator[Metric]:
        current_policy, outbox = self._clinic.current_policy(), self._clinic.outbox
        states, totals, oldest = outbox.overview.states(), outbox.overview.totals(), outbox.overview.oldest_unsent()
        link = link_status.read_status(outbox.folder, current_policy.now)
        studies = GaugeMetricFamily("thinwire_studies", "Studies at the clinic.", labels=["state"])
        for state in EntryState:
            studies.add_metric([state], states[state])
        yield studies
        family = GaugeMetricFamily("thinwire_parts", "Parts of studies.", labels=["tier", "state"])
        for each in totals:
            family.add_metric((each.kind.name.lower(), each.state), each.count)
        yield family
        waiting = sum(each.size for each in totals if each.state is PartState.WAITING)
        yield GaugeMetricFamily("thinwire_waiting_bytes", "Sealed bytes that wait for the link.", waiting)
        age = (current_policy.now - oldest).total_seconds() if oldest else 0.0
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
        yield from connection_metrics(self._clinic.listeners)
