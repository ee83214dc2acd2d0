"""The links that are emulated. Figures and their reasons: docs/link-laboratory.md."""

from dataclasses import dataclass, replace

from benchmarks.link.model import Schedule, Way

KBIT = 1_000.0
MBIT = 1_000_000.0
MTU = 1500
"""Bytes of the largest IP packet."""
LEAST_QUEUE = 20 * MTU
"""Bytes. Twenty full packets: the least that a slow modem's driver holds (Linux's ppp: txqueuelen 3 to 100)."""


@dataclass(frozen=True)
class Profile:
    """A link between a clinic and its hub."""

    name: str
    up: Way
    """Clinic to hub."""
    down: Way
    """Hub to clinic."""
    schedule: Schedule | None = None
    """When the link is up; None: always."""
    power: bool = False
    """Whether an outage of the schedule is a power cut: the clinic's processes are killed with it."""
    about: str = ""

    @property
    def round_trip(self) -> float:
        """Seconds of propagation, both ways."""
        return self.up.delay + self.down.delay

    @property
    def lossless(self) -> "Profile":
        """The same link without loss and outages: the self-check measures rates on it."""
        up, down = (replace(way, loss=0.0, burst=None) for way in (self.up, self.down))
        return replace(self, up=up, down=down, schedule=None)

    @property
    def steady(self) -> "Profile":
        """The same link without outages."""
        return replace(self, schedule=None)


def link(
    name: str,
    up: float,
    down: float,
    round_trip: float,
    loss: float,
    *,
    schedule: Schedule | None = None,
    power: bool = False,
    about: str = "",
) -> Profile:
    """up, down: bits a second; round_trip: seconds, half of it each way; loss: of packets, each way.

    The queue holds one second of the line or twice its bandwidth-delay product, whichever is more: access links buffer
    that much (Gettys and Nichols, Bufferbloat, CACM 2012), and a slow one not less than LEAST_QUEUE.
    """

    def way(rate: float) -> Way:
        bytes_a_second = rate / 8
        queue = max(LEAST_QUEUE, int(bytes_a_second * max(1.0, 2 * round_trip)))
        return Way(rate=rate, delay=round_trip / 2, queue=queue, loss=loss)

    return Profile(name, way(up), way(down), schedule, power, about)


PROFILES: dict[str, Profile] = {
    each.name: each
    for each in (
        link("gprs", 64 * KBIT, 64 * KBIT, 0.700, 0.010, about="GPRS, 64 kbit/s both ways"),
        link("edge", 128 * KBIT, 128 * KBIT, 0.400, 0.010, about="EDGE, 128 kbit/s both ways"),
        link("vsat", 256 * KBIT, 1 * MBIT, 0.650, 0.005, about="geostationary satellite, asymmetric"),
        link("threeg", 512 * KBIT, 2 * MBIT, 0.150, 0.010, about="UMTS at the edge of a cell; down four times up"),
        link("leo", 10 * MBIT, 10 * MBIT, 0.060, 0.005, about="low-orbit satellite, the same both ways"),
        link(
            "flaky-vsat",
            256 * KBIT,
            1 * MBIT,
            0.650,
            0.005,
            schedule=Schedule(up=40, down=20),
            about="the vsat that is there for 40 s and gone for 20 s",
        ),
        link(
            "malawi",
            384 * KBIT,
            384 * KBIT,
            0.715,
            0.005,
            schedule=Schedule(up=120, down=60),
            power=True,
            about="a shared rural satellite link; every power cut ends the clinic's processes too",
        ),
    )
}
