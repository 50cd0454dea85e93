"""Opening: one process at a time makes or migrates the tables of a database, or publishes; the others wait.

Train walk: model_registry.py, mlflow_store.py, deployments.state.store -> [opening.py]
MLflow's migrations of SQLite copy each table to one of a fixed name: two of them side by side break the file.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from training.errors import StoreUnavailable, UserError
from training.settings import mask_passwords

# PostgreSQL's advisory locks are numbers; these are no one else's.
_ADVISORY_LOCKS = {"tables": 0x53686F616C, "publish": 0x53686F616D}

_BUSY_TIMEOUT_S = 30.0

DATABASE_URIS = "sqlite:////PATH/TO/FILE.db or postgresql://USER:PASSWORD@HOST/DATABASE"


def check_database(uri: str, variable: str) -> None:
    """Connect to a database, so that a wrong URI is refused at once and with a remedy; MLflow retries for 107 s.

    Args:
        uri: SQLAlchemy's.
        variable: that sets it.

    Raises:
        UserError: it is no database's, or its driver is not installed.
        StoreUnavailable: the database cannot be opened.
    """
    from sqlalchemy import NullPool, create_engine, inspect
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    database = f"the database {mask_passwords(uri)} ({variable})"
    options: dict[str, float] = {}
    try:
        if uri.startswith("sqlite:///"):
            file = _sqlite_file(uri)
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                return  # SQLAlchemy would create it
            # Another process may write its tables at the moment.
            options["timeout"] = _BUSY_TIMEOUT_S
        # Of SQLite, only a query opens the file.
        inspect(create_engine(uri, poolclass=NullPool, connect_args=options)).get_table_names()
    except ImportError as error:
        remedy = f"install {error.name}"
        if uri.startswith("postgresql"):
            remedy = "run `pip install 'psycopg[binary]'`, and let the URI begin with postgresql://"
        raise UserError(f"{database} needs the driver {error.name}, which is not installed; {remedy}") from error
    except (ArgumentError, ValueError) as error:
        raise UserError(f"{database} is no database's URI; write {DATABASE_URIS}") from error
    except (SQLAlchemyError, OSError) as error:
        reason = mask_passwords(" ".join(str(getattr(error, "orig", error)).split()))
        remedy = "name another file in" if uri.startswith("sqlite") else "start its server, or correct"
        raise StoreUnavailable(f"{database} cannot be opened: {reason}; {remedy} {variable}") from error


@contextlib.contextmanager
def lock_store(uri: str, purpose: Literal["tables", "publish"]) -> Iterator[None]:
    """Keep other processes from doing the same with this database; those of SQLite and PostgreSQL.

    Args:
        uri: SQLAlchemy's; of another kind of store, nothing is locked.
        purpose: what is done.
    """
    if uri.startswith("sqlite:///"):
        file = _sqlite_file(uri)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.with_name(f"{file.name}.{purpose}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    elif uri.startswith("postgresql"):
        from sqlalchemy import NullPool, create_engine, text

        with create_engine(uri, poolclass=NullPool).connect() as connection:
            # It ends with the connection.
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCKS[purpose]})
            yield
    else:
        yield


@contextlib.contextmanager
def new_sqlite_file(uri: str) -> Iterator[str]:
    """Make a SQLite database as a whole or not at all; the block gets the URI of the file to make it in.

    A database that exists is opened as it is.
    """
    file = _sqlite_file(uri) if uri.startswith("sqlite:///") else None
    if file is None or file.exists():
        yield uri
        return
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.unlink(missing_ok=True)
    yield uri.replace(str(file), str(unfinished))
    if unfinished.exists():
        unfinished.replace(file)


def _sqlite_file(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])
