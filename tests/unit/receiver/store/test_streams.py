"""Streams of sites over all replicas: the newest counts, the dead count no more."""

from sqlalchemy import select

from tests.support.clock import FakeClock
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.streams import LEASE, Streams, of_stream, stream_topic
from thinwire.receiver.store.tables import replicas, streams
from thinwire.shared.identifiers import SiteName

NORTH, SOUTH = SiteName("north-valley"), SiteName("south-ridge")


def replica(hub: Hub, name: str) -> Streams:
    made = Streams(hub.database, hub.clock, name)
    made.begin("".join)
    return made


def lapse(hub: Hub, clock: FakeClock, of: Streams) -> None:
    """The lease of a replica ends: by the clock here, by its row in PostgreSQL, whose clock is the machine's."""
    if hub.database.shared:
        with hub.database.write() as connection:
            connection.execute(
                replicas.update().where(replicas.c.replica == of.id).values(until=replicas.c.until - 20_000_000)
            )
    else:
        clock.advance(LEASE + 1)


def test_the_newer_stream_of_a_site_takes_over_and_waits_for_the_older_one(hub: Hub) -> None:
    one, two = replica(hub, "one"), replica(hub, "two")
    old, other = one.open(NORTH), one.open(SOUTH)
    new = two.open(NORTH)
    assert new > old
    assert two.rivals(NORTH, new) == (True, False)
    assert one.rivals(NORTH, old) == (False, True)
    assert one.replaced() == one.replaced([NORTH]) == {NORTH: new}
    assert one.replaced([SOUTH]) == two.replaced() == {}
    one.close(NORTH, old)
    assert two.rivals(NORTH, new) == (False, False)
    assert one.rivals(SOUTH, other) == (False, False)


def test_two_streams_of_one_replica_are_its_own_affair(hub: Hub) -> None:
    one = replica(hub, "one")
    old, new = one.open(NORTH), one.open(NORTH)
    assert one.rivals(NORTH, new) == one.rivals(NORTH, old) == (False, False)
    assert one.replaced() == {}


def test_nobody_waits_for_a_replica_that_died(hub: Hub, clock: FakeClock) -> None:
    one, two = replica(hub, "one"), replica(hub, "two")
    one.renew('["of one"]')
    one.open(NORTH)
    new = two.open(NORTH)
    lapse(hub, clock, one)
    assert two.renew(None) is (hub.database.shared)
    assert two.rivals(NORTH, new) == (False, False)
    assert [(each.name, each.lives) for each in two.others()] == [("one", False)]
    assert one.renew(None) is False  # it was held up, and lives again
    assert one.replaced() == {NORTH: new}
    assert one.numbers()
    lapse(hub, clock, one)
    three = Streams(hub.database, hub.clock, "three")
    assert three.begin("".join) == '["of one"]'
    assert three.links_of(one.id) == three.links_of(three.id) == '["of one"]'
    assert one.numbers()  # it may live again


def test_a_process_that_starts_again_and_again_has_one_row(hub: Hub, clock: FakeClock) -> None:
    for links in "abc":
        one = replica(hub, "one")
        one.open(NORTH)
        one.renew(links)
        lapse(hub, clock, one)
    last = Streams(hub.database, hub.clock, "one")
    assert last.begin("".join) == "c"
    with hub.database.read() as connection:
        assert list(connection.scalars(select(replicas.c.replica))) == [last.id]
        assert list(connection.scalars(select(streams.c.number))) == []


def test_a_replica_that_ends_leaves_its_links_and_no_stream(hub: Hub) -> None:
    one, two = replica(hub, "one"), replica(hub, "two")
    one.open(NORTH)
    one.end("[]")
    assert two.rivals(NORTH, two.open(NORTH)) == (False, False)
    assert [each.lives for each in two.others()] == [False]


def test_the_end_of_a_stream_removes_what_earlier_ones_of_the_site_left_and_nothing_that_lives(hub: Hub) -> None:
    one, two = replica(hub, "one"), replica(hub, "two")
    one.open(NORTH)  # its answer was lost
    kept, of_two, last, newer = one.open(NORTH), two.open(NORTH), one.open(NORTH), one.open(NORTH)
    one.close(NORTH, last, [kept])
    with hub.database.read() as connection:
        assert list(connection.scalars(select(streams.c.number).order_by(streams.c.number))) == [kept, of_two, newer]


def test_the_topic_of_a_stream_is_no_site() -> None:
    assert of_stream(stream_topic(NORTH)) == NORTH
    assert of_stream(NORTH) is None
