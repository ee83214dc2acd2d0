"""The book of the links: links.json of this process, and in a cluster the rows by which all replicas know all links."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from thinwire.receiver.store.streams import Streams
from thinwire.receiver.transport import link_status
from thinwire.receiver.transport.link_status import SiteLink, as_json, from_json
from thinwire.shared.clock import Clock
from thinwire.shared.identifiers import SiteName

RENEWED, TOLD = 5.0, 2.0
"""Seconds after which a file or a lease is renewed that has not changed, and between two statuses for the others."""


class LinkBook:
    """For one thread at a time. streams: None for a hub without other replicas."""

    def __init__(self, data: Path, clock: Clock, streams: Streams | None) -> None:
        self._data = data
        self._clock = clock
        self._streams = streams
        self._written: tuple[float, Sequence[SiteLink]] | None = None
        self._told: tuple[float, Sequence[SiteLink]] | None = None
        self._renewed = 0.0
        self._others: dict[str, tuple[int, bool, list[SiteLink]]] = {}
        """By replica: when they were written, whether it lives, and its links."""

    def begin(self) -> list[SiteLink]:
        """This process serves; returns the links of earlier ones. Raises as `Database.write`."""
        _, left = link_status.read_status(self._data, self._clock.now())
        if self._streams is not None:
            left = _links(self._streams.begin(_of_the_past))
            self._renewed = self._clock.monotonic()
        return left

    def write(self, links: Sequence[SiteLink]) -> bool:
        """Write the present status. False if this replica's lease had ended. Raises as `Database.write`."""
        now, held = self._clock.monotonic(), True
        if self._streams is not None:
            links = [replace(each, replica=self._streams.name) if each.connected else each for each in links]
            told_at, told = self._told or (-TOLD, [])
            changed = links != told and now - told_at >= TOLD
            if changed or now - self._renewed >= RENEWED:
                held = self._streams.renew(_text(links) if changed else None)
                self._renewed = now
                if changed:
                    self._told = now, links
                elif not held:
                    # Its row may be a new one, without the links.
                    self._told = None
            links = merged([links, *self._read_others(self._streams)])
        if self._written is None or self._written[1] != links or now - self._written[0] >= RENEWED:
            link_status.write_status(self._data, links, self._clock.now())
            self._written = now, links
        return held

    def end(self, links: Sequence[SiteLink]) -> None:
        """This process serves no more, and no stream is open."""
        link_status.write_status(self._data, links, self._clock.now(), serves=False)
        if self._streams is not None:
            self._streams.end(_text(links))

    def _read_others(self, streams: Streams) -> list[list[SiteLink]]:
        others = streams.others()
        for each in others:
            written_at, _, links = self._others.get(each.id, (None, True, []))
            if each.written_at != written_at:
                links = _links(streams.links_of(each.id) or "[]")
            self._others[each.id] = each.written_at, each.lives, links
        here = {each.id for each in others}
        self._others = {id: each for id, each in self._others.items() if id in here}
        return [links if lives else _ended(links) for _, lives, links in self._others.values()]


def merged(replicas: Iterable[Iterable[SiteLink]]) -> list[SiteLink]:
    """The links of all sites, by site: of several of one site the connected one, of those the newest."""
    found: dict[SiteName, SiteLink] = {}
    for links in replicas:
        for link in links:
            before = found.get(link.site)
            if before is None or (link.connected, link.since) > (before.connected, before.since):
                found[link.site] = link
    return [link for _, link in sorted(found.items())]


def _of_the_past(texts: Iterable[str]) -> str:
    return _text(merged(_ended(_links(each)) for each in texts))


def _ended(links: Iterable[SiteLink]) -> list[SiteLink]:
    return [replace(link, connected=False, rate=0.0, arriving=()) for link in links]


def _text(links: Sequence[SiteLink]) -> str:
    return json.dumps([as_json(each) for each in links])


def _links(text: str) -> list[SiteLink]:
    """None of a text that a later version wrote."""
    try:
        return [from_json(each) for each in json.loads(text)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
