"""Version 8: the rows of the worklist with their counts and words, made from the rows of all studies."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

PAGE = 10_000
"""Rows in memory at a time."""
PLACE_OF = {"immediate": 0, "urgent": 1, "uncertain": 3, "routine": 4}
NEW, OPENED, DRAFTED, PRELIMINARY_OPENED, PRELIMINARY, SIGNED = range(6)

STUDIES = """
SELECT studies.site, studies.study, studies.received_at, studies.urgent_asked, studies.text_source, studies.modality,
  studies.view_position, readings.urgency, readings.reason, readings.findings,
  (SELECT state FROM reports WHERE site = studies.site AND study = studies.study ORDER BY version DESC LIMIT 1)
    AS report,
  EXISTS (SELECT 1 FROM events WHERE site = studies.site AND study = studies.study AND event = 'opened') AS opened,
  EXISTS (SELECT 1 FROM drafts WHERE site = studies.site AND study = studies.study
    AND blob = (SELECT blob FROM objects WHERE site = studies.site AND study = studies.study AND kind = 0
      ORDER BY number DESC LIMIT 1)) AS drafted
FROM studies LEFT JOIN readings ON readings.site = studies.site AND readings.study = studies.study
  AND readings.blob = (SELECT blob FROM objects WHERE site = studies.site AND study = studies.study AND kind = 0
    ORDER BY number DESC LIMIT 1)
ORDER BY studies.received_at, studies.site, studies.study
"""
"""Each with the prediction from its newest graph; the oldest first, so that the numbers ascend with the arrival."""


def upgrade() -> None:
    worklist = op.create_table(
        "worklist",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("study", sa.LargeBinary(16), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("opened", sa.Boolean(), nullable=False),
        sa.Column("report", sa.String(16)),
        sa.Column("drafted", sa.Boolean(), nullable=False),
        sa.Column("words", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.ForeignKeyConstraint(["site", "study"], ["studies.site", "studies.study"]),
    )
    counts = op.create_table(
        "worklist_counts",
        sa.Column("site", sa.String(32), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("studies", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("site", "state", "place"),
    )
    vocabulary = op.create_table(
        "worklist_vocabulary", sa.Column("word", sa.String(), nullable=False), sa.PrimaryKeyConstraint("word")
    )
    op.execute(
        "CREATE VIRTUAL TABLE worklist_words USING fts5(words, content='worklist', content_rowid='number', "
        "tokenize='ascii', detail='none', columnsize=0)"
    )
    tally: Counter[tuple[str, int, int]] = Counter()
    words: set[str] = set()
    for page in _rows(op.get_bind()):
        op.bulk_insert(worklist, page)
        tally.update((row["site"], row["state"], row["place"]) for row in page)
        words.update(word for row in page for word in row["words"].split())
    op.bulk_insert(
        counts,
        [{"site": s, "state": state, "place": place, "studies": n} for (s, state, place), n in sorted(tally.items())],
    )
    op.bulk_insert(vocabulary, [{"word": word} for word in sorted(words)])
    op.execute("INSERT INTO worklist_words (worklist_words) VALUES ('rebuild')")
    op.create_index("worklist_study", "worklist", ["study", "site"], unique=True)
    op.create_index("worklist_order", "worklist", ["done", "place", "received_at", "site", "study"])
    op.create_index("worklist_state", "worklist", ["state", "place", "received_at", "site", "study"])
    op.create_index("worklist_site_order", "worklist", ["site", "done", "place", "received_at", "study"])
    op.create_index("worklist_site_state", "worklist", ["site", "state", "place", "received_at", "study"])
    op.create_index("worklist_drafted", "worklist", ["drafted", "place", "received_at"])
    op.drop_index("studies_patient")
    op.create_index("studies_patient", "studies", ["patient", "site"])


def _rows(connection: sa.Connection) -> Iterator[list[dict[str, Any]]]:
    # Read ahead of the inserts by another cursor, which sees none of them: they are in another table.
    found = connection.execute(sa.text(STUDIES))
    while page := found.fetchmany(PAGE):
        yield [_row(each) for each in page]


def _row(study: Any) -> dict[str, Any]:
    untriaged = 2 if study.urgent_asked else 5
    state = {
        None: OPENED if study.opened else NEW,
        "draft": OPENED if study.opened else DRAFTED,
        "preliminary": PRELIMINARY_OPENED if study.opened else PRELIMINARY,
        "final": SIGNED,
    }[study.report]
    return {
        "site": study.site,
        "study": study.study,
        "received_at": study.received_at,
        "done": state == SIGNED,
        "state": state,
        "place": PLACE_OF[study.urgency] if study.urgency else untriaged,
        "opened": bool(study.opened),
        "report": study.report,
        "drafted": bool(study.drafted),
        "words": _words(study),
    }


def _words(study: Any) -> str:
    texts = [study.site, study.text_source, study.modality, study.view_position]
    texts += [study.urgency or "not triaged", study.reason, study.report]
    if study.report == "final":
        texts.append("signed")
    elif study.report is None:
        texts.append("opened" if study.opened else "new")
    found = json.loads(study.findings or "{}")
    texts += [name for name, (*_, outcome) in found.items() if outcome != "no"]
    return " ".join(sorted({word for text in texts if text for word in re.findall("[a-z0-9]+", text.lower())}))
