"""Columns, counters and triggers that mean the same in SQLite and in PostgreSQL."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Dialect,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    func,
    select,
    text,
)

from thinwire.shared.storage.database import is_postgresql

Number = BigInteger().with_variant(Integer, "sqlite")
"""The type of numbers that the database counts up: 64 bits in both (SQLite: a rowid, which has this type's name)."""


class _Text(TypeDecorator[str]):
    """Text as SQLite keeps it. PostgreSQL takes no NUL, which others' texts have, such as the padded one of a PACS."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        del dialect
        return value if value is None else value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def alike(tables: MetaData) -> None:
    """Give columns in PostgreSQL the meaning that they have in SQLite: whole numbers of 64 bits, and text of any length
    in the order of its bytes."""
    for column in (column for table in tables.tables.values() for column in table.columns):
        if type(column.type) is Integer:
            column.type = Integer().with_variant(BigInteger(), "postgresql")
        elif type(column.type) is String:
            column.type = String(column.type.length).with_variant(_Text(collation="C"), "postgresql")


def make_alike(connection: Connection) -> None:
    """After a migration of PostgreSQL's tables: what `alike` says, for the columns that the revisions added."""
    query = text(
        "SELECT table_name, column_name, data_type = 'integer' AS number FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND table_name <> 'alembic_version' "
        "AND (data_type = 'integer' OR data_type = 'character varying' "
        "AND (collation_name IS DISTINCT FROM 'C' OR character_maximum_length IS NOT NULL))"
    )
    quote = connection.dialect.identifier_preparer.quote
    for table, column, number in connection.execute(query).all():
        new = "bigint" if number else 'character varying COLLATE "C"'
        connection.execute(text(f"ALTER TABLE {quote(table)} ALTER COLUMN {quote(column)} TYPE {new}"))


def count_on(connection: Connection, tables: MetaData) -> None:
    """Let PostgreSQL count its numbers on from the rows that were copied with theirs; SQLite looks at the rows."""
    if not is_postgresql(connection):
        return
    for table in tables.sorted_tables:
        column = table.autoincrement_column
        if column is not None:
            last = select(func.coalesce(func.max(column), 0) + 1).scalar_subquery()
            connection.execute(select(func.setval(func.pg_get_serial_sequence(table.name, column.name), last, False)))


def only_added(table: Table, connection: Connection, unless: str = "", **_: Any) -> None:
    """Called after a table was created: its rows are added and never altered. A slip of a program cannot.

    unless: a condition in SQL, of the row OLD, under which it may be removed."""
    name = table.name
    if is_postgresql(connection):
        refuse = "RAISE EXCEPTION 'rows are only added' USING ERRCODE = 'integrity_constraint_violation';"
        acts = "UPDATE OR TRUNCATE" if unless else "UPDATE OR DELETE OR TRUNCATE"
        statements = [
            f"CREATE OR REPLACE FUNCTION only_added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refuse} END $$",
            f"CREATE TRIGGER {name}_only_added BEFORE {acts} ON {name} EXECUTE FUNCTION only_added()",
        ]
        if unless:
            body = f"BEGIN IF NOT {unless} THEN {refuse} END IF; RETURN OLD; END"
            statements += [
                f"CREATE OR REPLACE FUNCTION {name}_no_delete() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
                f"CREATE TRIGGER {name}_no_delete BEFORE DELETE ON {name} FOR EACH ROW "
                f"EXECUTE FUNCTION {name}_no_delete()",
            ]
    else:
        refuse = "BEGIN SELECT RAISE(ABORT, 'rows are only added'); END"
        when = f"WHEN NOT {unless} " if unless else ""
        statements = [
            f"CREATE TRIGGER {name}_no_update BEFORE UPDATE ON {name} {refuse}",
            f"CREATE TRIGGER {name}_no_delete BEFORE DELETE ON {name} {when}{refuse}",
        ]
    for each in statements:
        connection.execute(text(each))
