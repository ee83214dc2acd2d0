"""The operations of a hub on PostgreSQL and an object store: damage is found and mended, and nobody takes another hub's
database or bucket, or a database that is being filled."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, select, text

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, damage_blob, join, study_parts
from tests.support.object_store import bucket
from tests.support.postgresql import new_database, server
from tests.support.power import Fuse, PowerCut
from tests.support.removals import arrives, found, signed
from thinwire.receiver.config import FILE, load_settings, with_state
from thinwire.receiver.hub import DATABASE, Hub, make_hub, open_hub, require_place
from thinwire.receiver.operations.backup import back_up, restore
from thinwire.receiver.operations.check import repair
from thinwire.receiver.operations.database_copy import read_file
from thinwire.receiver.operations.move import move
from thinwire.receiver.store.events import last_event
from thinwire.receiver.store.history import history_of
from thinwire.receiver.store.tables import HUB, replicas
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, DatabaseBusy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import open_database


def silent(*_: object) -> None:
    """No progress, no message."""


def url_of(data: Path) -> str:
    url = load_settings(data).database
    assert url is not None
    return url.get_secret_value()


@pytest.fixture
def data(tmp_path: Path, bundle: Bundle, clock: FakeClock) -> Iterator[Path]:
    with new_database() as database, bucket() as blobs:
        make_hub(tmp_path / "hub", bundle.folder, Disk(), clock, database, blobs)
        yield tmp_path / "hub"


def test_damage_is_found_and_mended(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    parts = study_parts(clinic, bundle)
    arrives(hub, clinic, parts)
    signed(hub, clinic.site, parts.study)
    assert found(hub) == []
    engine = create_engine(url_of(hub.data))
    for statement, words in (
        ("UPDATE objects SET plain_size = plain_size + 1 WHERE kind = 0", "graph: the row states"),
        ("UPDATE receipts SET status = 'opened' WHERE number = 1", "receipt 1 states something else"),
        ("DELETE FROM worklist_counts", "the counts differ"),
        ("UPDATE worklist SET place = 5 - place", "its row differs"),
        ("DELETE FROM worklist_vocabulary WHERE word = 'signed'", "the words of the search differ"),
    ):
        with engine.connect() as stranger:
            stranger.execute(text(statement))
            stranger.commit()
        assert any(words in each.problem for each in found(hub)), statement
    engine.dispose()
    assert repair(hub, found(hub)) == 0
    assert {each.subject for each in found(hub)} == {"part", "receipt"}, "the worklist is made anew, and no row else"


def test_a_repair_goes_on_wherever_the_power_is_cut(
    data: Path, hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    parts = study_parts(clinic, bundle)
    arrives(hub, clinic, parts)
    part, blob = parts.originals, digest(parts.originals.plaintext)
    for step in ("check.repair.before_commit", "check.repair.committed", "never"):
        damage_blob(hub, blob)
        with open_hub(data, clock, Disk(Fuse((step, 1)))) as cut, suppress(PowerCut):
            assert "damaged" in found(cut)[0].problem
            repair(cut, found(cut))
        repair(hub, found(hub))
        assert (found(hub), hub.damaged_blobs().size(blob)) == ([], len(b"damaged")), step
        assert hub.store.requested_parts(clinic.site) == [(parts.study, Kind.ORIGINALS)]
        assert hub.store.stored_receipt(clinic.site, part.object) is None
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
        assert (found(hub), hub.store.requested_parts(clinic.site)) == ([], [])


def test_a_restore_keeps_every_other_process_out(data: Path, bundle: Bundle, clock: FakeClock, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with open_hub(data, clock) as hub:
        clinic = join(hub)
        arrives(hub, clinic, study_parts(clinic, bundle))
        back_up(hub.database, hub.blobs, data, backup, Disk(), clock, silent, silent)
        arrives(hub, clinic, study_parts(clinic, bundle, 1))
        with pytest.raises(BadConfiguration, match="other processes"):
            restore(data, backup, Disk(), clock, silent, silent)
        with hub.database.read() as connection:
            before, generation = last_event(connection), history_of(connection, clinic.site).generation
        absent, late = open_database(url_of(data), HUB), open_database(url_of(data), HUB)
        with absent.read():
            pass
    absent.engine.dispose()  # its connections are lost, and it does not know of the restore; `late` has made none
    other, refused = shutil.copytree(data, tmp_path / "other"), []

    def meanwhile(at: str, *_: object) -> None:
        if at not in ("restore.before_emptied", "rows of objects compared"):
            return
        for act in (open_hub(other, clock).__enter__, absent.read().__enter__, late.read().__enter__):
            with pytest.raises((BadConfiguration, DatabaseBusy)) as error:
                act()
            refused.append(str(error.value))
        with pytest.raises(DatabaseBusy):
            restore(other, backup, Disk(), clock, silent, silent)

    restore(data, backup, Disk(meanwhile), clock, silent, meanwhile)
    assert any("brought forward" in each for each in refused)
    assert any("unfinished copy" in each for each in refused)
    with pytest.raises(BadConfiguration, match="restored since"), absent.read():
        pass
    absent.close()
    late.close()
    with open_hub(data, clock) as hub:
        assert len(list(hub.store.studies())) == 1
        with hub.database.read() as connection:
            history = history_of(connection, clinic.site)
            assert last_event(connection) < before
        assert history.generation != generation
        assert generation in history.past


def test_nothing_of_another_hub_is_replaced_or_used(
    data: Path, bundle: Bundle, clock: FakeClock, tmp_path: Path
) -> None:
    with new_database() as database, bucket() as blobs:
        make_hub(tmp_path / "strange", bundle.folder, Disk(), clock, database, blobs)
        for name in (data, tmp_path / "strange"):
            with open_hub(name, clock) as hub:
                back_up(hub.database, hub.blobs, name, tmp_path / f"backup-{name.name}", Disk(), clock, silent, silent)
        # A backup of another hub; a bucket of another hub; a database of another hub.
        with pytest.raises(BadConfiguration, match="of another hub"):
            restore(data, tmp_path / "backup-strange", Disk(), clock, silent, silent)
        mine, url, at = (data / FILE).read_text(), url_of(data), str(load_settings(data).blobs)
        (data / FILE).write_text(with_state(mine, database=url, blobs=blobs))
        with pytest.raises(BadConfiguration, match="objects of another hub"):
            restore(data, tmp_path / "backup-hub", Disk(), clock, silent, silent)
        with open_hub(data, clock) as hub, pytest.raises(BadConfiguration, match="objects of another hub"):
            require_place(hub)
        (data / FILE).write_text(with_state(mine, database=database, blobs=at))
        with pytest.raises(BadConfiguration, match="of another hub"):
            restore(data, tmp_path / "backup-hub", Disk(), clock, silent, silent)
        with pytest.raises(BadConfiguration, match="of another hub"), open_hub(data, clock):
            pass
        (data / FILE).write_text(with_state(mine, database=url, blobs=f"{blobs}/2"))
        with open_hub(data, clock) as hub, pytest.raises(BadConfiguration, match="no object 'hub'"):
            found(hub)
        (data / FILE).write_text(mine)
        make_hub(tmp_path / "third", bundle.folder, Disk(), clock)
        with server().database() as fresh, pytest.raises(BadConfiguration, match="objects of another hub"):
            move(tmp_path / "third", server().url(fresh), blobs, Disk(), clock, silent, silent)
        for name in (data, tmp_path / "strange"):
            with open_hub(name, clock) as hub:
                require_place(hub)
                assert found(hub) == []


def test_of_two_hubs_that_are_made_in_one_database_the_first_has_it(
    bundle: Bundle, clock: FakeClock, tmp_path: Path
) -> None:
    with new_database() as database:

        def second(step: str) -> None:
            if step == "config.before_write":
                with pytest.raises(BadConfiguration, match="already holds a hub"):
                    make_hub(tmp_path / "second", bundle.folder, Disk(), clock, database)

        make_hub(tmp_path / "first", bundle.folder, Disk(second), clock, database)
        assert not (tmp_path / "second" / FILE).exists()
        with open_hub(tmp_path / "first", clock):
            pass


def test_a_text_with_nul_moves(bundle: Bundle, clock: FakeClock, tmp_path: Path) -> None:
    make_hub(tmp_path / "hub", bundle.folder, Disk(), clock)
    with open_hub(tmp_path / "hub", clock) as hub, hub.database.write() as connection:
        row = {"replica": "one", "name": "padded\0", "until": 0, "written_at": 0}
        connection.execute(insert(replicas).values(row))
    with server().database() as name:
        read_file(tmp_path / "hub" / DATABASE, server().url(name), silent, silent)
        moved = open_database(server().url(name), HUB)
        with moved.read() as connection:
            assert connection.scalars(select(replicas.c.name)).all() == ["padded\N{REPLACEMENT CHARACTER}"]
        moved.close()
