"""Audit triggers: the database itself refuses to update and to delete rows of the log.

Whoever may alter the schema, or the file, can drop them; they keep out mistakes, and accounts that may only write rows.
"""

from sqlalchemy import Connection, Engine, text

_REFUSAL = "the audit log is append-only"
_SQLITE = {
    "audit_log_no_update": "BEFORE UPDATE ON audit_log",
    "audit_log_no_delete": "BEFORE DELETE ON audit_log",
    # INSERT OR REPLACE deletes without the trigger above.
    "audit_log_no_replace": "BEFORE INSERT ON audit_log "
    "WHEN NEW.sequence <= (SELECT coalesce(max(sequence), 0) FROM audit_log)",
}
_POSTGRESQL = {
    "audit_log_no_change": "BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW",
    "audit_log_no_truncate": "BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT",
}
_FUNCTION = (
    "CREATE OR REPLACE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
)
_LIST = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_log'",
    "postgresql": "SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit_log'::regclass AND tgenabled <> 'D'",
}


def create_triggers(engine: Engine) -> None:
    """Create those that are missing; the caller keeps other processes from the tables."""
    with engine.begin() as connection:
        for name in list_missing(connection):
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql(
                    f"CREATE TRIGGER {name} {_SQLITE[name]} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
                )
            else:
                connection.exec_driver_sql(_FUNCTION)
                # One that was disabled is there, but does nothing.
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON audit_log")
                connection.exec_driver_sql(
                    f"CREATE TRIGGER {name} {_POSTGRESQL[name]} EXECUTE FUNCTION audit_log_refuse()"
                )


def list_missing(connection: Connection) -> list[str]:
    """The names of those that should be there and are not."""
    wanted = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}.get(connection.dialect.name, {})
    if not wanted:
        return []
    present = set(connection.execute(text(_LIST[connection.dialect.name])).scalars())
    return [name for name in wanted if name not in present]
