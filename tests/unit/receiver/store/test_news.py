"""News: who waits hears of each commit once, of this process and of others."""

import threading
from collections.abc import Callable, Iterator, Set
from datetime import timedelta

import pytest

from tests.support.hub_end import used
from tests.support.hub_folder import Clinic, StudyParts
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.store import news as news_module
from thinwire.receiver.store.events import STUDIES
from thinwire.receiver.store.history import HISTORY, record_backup
from thinwire.receiver.store.news import ACCESS, News, is_of_work
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import fingerprint, new_request, new_signing_key, prove_renewal
from thinwire.shared.errors import DatabaseBusy
from thinwire.shared.identifiers import SiteName

SITE, SIGNING = SiteName("north-valley"), new_signing_key()
Heard = list[tuple[frozenset[str], bool]]


@pytest.fixture
def other(hub: Hub) -> Iterator[Hub]:
    """The same hub in another process."""
    with open_hub(hub.data, hub.clock, hub.disk) as found:
        yield found


def listening(news: News) -> Heard:
    heard: Heard = []
    news.look()

    def note(topics: Set[str], by_others: bool) -> None:
        heard.append((frozenset(topics), by_others))

    news.subscribe(note)
    return heard


def put(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    part = parts.graph
    hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, urgent=False)


def test_each_commit_is_heard_once_here_and_once_elsewhere(
    hub: Hub, other: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    here, elsewhere = listening(hub.news), listening(other.news)
    put(hub, clinic, parts)
    # The stream by which the part came answers with its receipt.
    assert here == [(frozenset({STUDIES}), False)]
    other.news.look()
    other.news.look()
    assert [each for each in elsewhere if each[0]] == [(frozenset({clinic.site, STUDIES}), True)]
    here.clear()
    hub.news.look()
    assert here == [(frozenset(), hub.database.shared)]
    here.clear()
    other.store.request(clinic.site, parts.study, Kind.PREVIEW)
    hub.store.record_opened(clinic.site, parts.study)  # a later event does not hide the earlier one of the other
    hub.news.look()
    of_study = frozenset({clinic.site, STUDIES})
    assert here == [(of_study, False), (of_study, True)]


def test_a_commit_of_this_process_is_no_work_of_another(hub: Hub, other: Hub, engine: str) -> None:
    if engine == "postgresql":
        pytest.skip("it tells what was committed, and by whom")
    here = listening(hub.news)
    backed_up(hub)
    here.clear()
    hub.store.parked.park("inference", "a", OSError())
    hub.news.look()
    assert not any(is_of_work(*each) for each in here)
    other.store.parked.retry()
    hub.news.look()
    assert is_of_work(*here[-1])


def test_revocations_joins_backups_and_generations_are_heard_elsewhere(hub: Hub, other: Hub, clinic: Clinic) -> None:
    here, elsewhere = listening(hub.news), listening(other.news)
    acts: dict[str, Callable[[], object]] = {
        ACCESS: lambda: hub.enrolment.dismiss(clinic.site),
        HISTORY: lambda: backed_up(hub),
    }
    for topic, act in acts.items():
        here.clear()
        elsewhere.clear()
        act()
        other.news.look()
        assert (frozenset({topic}), False) in here
        assert elsewhere == [(frozenset({topic}), True)]


def test_a_certificate_in_force_is_found_by_a_look(hub: Hub, other: Hub) -> None:
    present = used(hub.enrolment, hub.enrolment.enrol(SITE)[0], new_request(SITE)[1], SIGNING).certificate_pem
    hub.enrolment.connect(SITE, present)
    request = new_request(SITE)[1]
    following = hub.enrolment.renew(
        SITE, fingerprint(present), request, prove_renewal(SIGNING, fingerprint(present), request)
    )
    here = listening(hub.news)
    other.database.committed = lambda _: None  # it died
    other.enrolment.connect(SITE, following)
    hub.news.look()
    assert here == [(frozenset({ACCESS}), True)]


def backed_up(hub: Hub) -> None:
    now = hub.clock.now()
    with hub.database.write() as connection:
        record_backup(connection, now - timedelta(minutes=1), {}, now)


def test_nothing_is_heard_of_what_is_undone(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    put(hub, clinic, parts)
    here = listening(hub.news)

    def fails(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        hub.enrolment.dismiss(clinic.site, fails)
    assert here == []


def test_one_listener_that_fails_leaves_the_others(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    def fails(_topics: Set[str], _by_others: bool) -> None:
        raise ZeroDivisionError

    stop = hub.news.subscribe(fails)
    here = listening(hub.news)
    put(hub, clinic, parts)
    stop()
    hub.enrolment.dismiss(SiteName(clinic.site))
    assert len(here) == 2


def test_news_comes_by_itself_also_after_a_look_that_failed(
    hub: Hub, other: Hub, clinic: Clinic, parts: StudyParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(news_module, "AGAIN_SECONDS", 0.001)
    heard, look, failed = threading.Event(), hub.news.look, threading.Event()

    def fails_once() -> None:
        if not failed.is_set():
            failed.set()
            raise DatabaseBusy("locked")
        look()

    monkeypatch.setattr(hub.news, "look", fails_once)

    def note(topics: Set[str], by_others: bool) -> None:
        if clinic.site in topics and by_others:
            heard.set()

    hub.news.subscribe(note)
    with hub.news.running(), other.news.running():
        put(other, clinic, parts)
        assert heard.wait(60)
        assert failed.is_set()


def test_a_watcher_reads_no_row_while_nothing_is_committed(
    hub: Hub, other: Hub, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "LOOK_SECONDS", 0.0)
    asked: list[str] = []
    if engine == "postgresql":
        pytest.skip("it is told")
    changes = hub.database.changes()
    looks, seen = iter(range(100)), changes.seen

    def counted() -> bool:
        if next(looks, None) is None:
            many.set()
        return seen()

    many = threading.Event()
    monkeypatch.setattr(changes, "seen", counted)
    monkeypatch.setattr(type(hub.database), "changes", lambda _: changes)
    monkeypatch.setattr(hub.news, "look", lambda: asked.append("look"))
    with hub.news.running():
        assert many.wait(60)
    assert asked == []


def test_what_a_process_committed_before_it_died_is_found_by_a_look(
    hub: Hub, other: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    here = listening(hub.news)
    other.database.committed = lambda _: None
    put(other, clinic, parts)
    hub.news.look()
    assert here == [(frozenset({clinic.site, STUDIES}), True)]
    hub.news.look()
    assert here[1:] == [(frozenset(), True)]


def test_a_notification_names_many_sites_within_its_length() -> None:
    topics = {f"site-{number:027}" for number in range(1000)}
    sent = list(news_module.payloads("me", topics))
    assert max(map(len, sent)) <= 7000
    assert {topic for each in sent for topic in each.split()[1:]} == topics
    assert {each.split()[0] for each in sent} == {"me"}
