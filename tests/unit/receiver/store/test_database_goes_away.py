"""PostgreSQL ends connections, stops, is killed, is full or read-only: nothing that was acknowledged is lost, nothing
is half done, and the hub goes on when the database is back."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, text

from tests.support.hub_folder import Clinic, StudyParts, study_parts
from tests.support.postgresql import PostgresServer
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.store.tables import objects, studies
from thinwire.shared.clock import Clock
from thinwire.shared.errors import DatabaseBusy, DiskFull, Retryable, StorageFailed
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk

Blow = Callable[[PostgresServer], None]


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """A server that these tests stop and kill."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def data(own: PostgresServer, tmp_path: Path, bundle: Bundle, clock: Clock) -> Iterator[Path]:
    with own.database() as name:
        make_hub(tmp_path / "hub", bundle.folder, Disk(), clock, own.url(name))
        yield tmp_path / "hub"


def put(hub: Hub, clinic: Clinic, parts: StudyParts) -> bytes:
    each = parts.graph
    return hub.pipeline().put(clinic.site, each.object, each.header, each.plaintext, False)


def count(hub: Hub) -> tuple[int, int]:
    with hub.database.read() as connection:
        return tuple(connection.scalar(select(func.count()).select_from(each)) or 0 for each in (studies, objects))  # type: ignore[return-value]


def end_connections(own: PostgresServer) -> None:
    own.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'thinwire'")


def stop_and_start(own: PostgresServer) -> None:
    own.stop()
    own.start()


def kill_and_start(own: PostgresServer) -> None:
    own.kill()
    own.start()


@pytest.mark.parametrize("blow", [end_connections, stop_and_start, kill_and_start])
def test_a_transaction_that_loses_its_connection_leaves_nothing_and_the_next_one_is_whole(
    own: PostgresServer, hub: Hub, clinic: Clinic, bundle: Bundle, parts: StudyParts, blow: Blow
) -> None:
    earlier = study_parts(clinic, bundle, 7)
    kept = put(hub, clinic, earlier)
    before = count(hub)
    with hub.database.read() as idle:
        idle.scalar(select(1))

    def removed() -> None:
        with hub.database.write(turn=clinic.site) as connection:
            connection.execute(objects.delete())
            blow(own)
            connection.execute(studies.delete())

    with pytest.raises(DatabaseBusy) as caught:
        removed()
    assert "PostgreSQL" in caught.value.remedy
    assert count(hub) == before
    assert put(hub, clinic, earlier) == kept
    put(hub, clinic, parts)
    assert count(hub) == (before[0] + 1, before[1] + 1)


def test_a_server_that_is_away_is_told_and_needs_no_restart_of_the_hub(
    own: PostgresServer, hub: Hub, clinic: Clinic, parts: StudyParts, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    own.stop()
    try:
        with pytest.raises(DatabaseBusy):
            put(hub, clinic, parts)
        with caplog.at_level(logging.WARNING), pytest.raises(DatabaseBusy), open_hub(hub.data, clock):
            pass
        assert "connection" in caplog.text
    finally:
        own.start()
    put(hub, clinic, parts)
    assert count(hub) == (1, 1)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("53100", DiskFull),
        ("58030", StorageFailed),
        ("25006", StorageFailed),
        ("XX001", StorageFailed),
        ("53200", DatabaseBusy),
    ],
)
def test_the_refusal_of_the_server_keeps_the_part_at_the_clinic(
    hub: Hub, clinic: Clinic, parts: StudyParts, state: str, error: type[Retryable]
) -> None:
    with hub.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION refused() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION 'of a patient' USING ERRCODE = '{state}'; END $$"
        )
        connection.exec_driver_sql("CREATE TRIGGER refused BEFORE INSERT ON objects EXECUTE FUNCTION refused()")
    with pytest.raises(error) as caught:
        put(hub, clinic, parts)
    assert "patient" not in f"{caught.value} {caught.value.remedy}"
    assert count(hub) == (0, 0)
    with hub.database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER refused ON objects")
    put(hub, clinic, parts)
    assert count(hub) == (1, 1)


def test_a_writer_that_does_nothing_holds_no_other_up_for_long(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose machine is gone."""
    monkeypatch.setattr("thinwire.shared.storage.database.IDLE", "50ms")
    with pytest.raises(DatabaseBusy), hub.database.write(turn="north-valley") as gone:
        _write_beside(hub, gone)
    with hub.database.read() as connection:
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "2min"


def _write_beside(hub: Hub, gone: Connection) -> None:
    with hub.database.write():
        pass
    gone.execute(select(func.now()))
