"""SQLite reader: reads a local registry's SQLite file directly, in milliseconds.

MLflow's client takes 1.4 to 3 s to import (mlflow_store.py), which every `shoal models` and `shoal runs` would wait
for. The tables are MLflow's own, read at SCHEMA_REVISION; a store of any other revision is read through MLflow.
Never writes.
"""

import math
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from training.registry.entities import (
    DIGEST_TAG,
    EXPERIMENT,
    IMPORTED_PARAM,
    MAX_RUNS,
    Run,
    Version,
    make_run,
)

# Alembic revision of MLflow 3.17's schema.
SCHEMA_REVISION = "dc11669786a5"
# MLflow's other workspaces and its deleted rows are not Shoal's.
_WORKSPACE = "default"
_DELETED_STAGE = "Deleted_Internal"
_BUSY_TIMEOUT_S = 30.0

_VERSIONS = """
    SELECT v.name, v.version, v.source, v.run_id, v.creation_time, t.value
    FROM model_versions v
    LEFT JOIN model_version_tags t
        ON t.workspace = v.workspace AND t.name = v.name AND t.version = v.version AND t.key = ?
    WHERE v.workspace = ? AND v.current_stage IS NOT ? AND (? IS NULL OR v.name = ?)
    ORDER BY v.name, v.version DESC
"""
_ALIASES = "SELECT name, version, alias FROM registered_model_aliases WHERE workspace = ? ORDER BY alias"
_RUNS = """
    SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time
    FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
    WHERE e.workspace = ? AND e.name = ? AND r.lifecycle_stage = 'active'
        AND NOT EXISTS (SELECT 1 FROM params p WHERE p.run_uuid = r.run_uuid AND p.key = ?)
    ORDER BY r.start_time DESC, r.run_uuid
    LIMIT ?
"""
_RUN = "SELECT run_uuid, name, status, start_time, end_time FROM runs WHERE run_uuid = ?"
_VALUES = "SELECT run_uuid, key, {value} FROM {table} WHERE ? IS NULL OR run_uuid = ?"
_METRIC = "CASE WHEN is_nan THEN NULL ELSE value END"


def open_reader(uri: str) -> "SqliteReader | None":
    """Return the reader of a registry's URI; None if it is not a SQLite file of the schema that is known here."""
    if not uri.startswith("sqlite:///") or "?" in uri:
        return None
    reader = SqliteReader(Path(uri.removeprefix("sqlite:///")))
    return reader if reader.is_supported() else None


class SqliteReader:
    """Reads versions and runs from one SQLite file; a file that does not exist yet holds none."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def is_supported(self) -> bool:
        """Whether the file is missing or has the schema that this reader knows."""
        try:
            return not self._file.exists() or self._query("SELECT version_num FROM alembic_version") == [
                (SCHEMA_REVISION,)
            ]
        except sqlite3.Error:
            return False

    def list_versions(self, name: str | None = None) -> list[Version]:
        """All versions of a model, or of all models; ordered by name, newest first."""
        aliases = defaultdict(list)
        for model, version, alias in self._query(_ALIASES, _WORKSPACE):
            aliases[model, version].append(alias)
        return [
            Version(
                name=model,
                version=version,
                digest=digest or "",
                uri=source or "",
                aliases=tuple(aliases[model, version]),
                run_id=run_id or "",
                created_s=created_ms / 1000,
            )
            for model, version, source, run_id, created_ms, digest in self._query(
                _VERSIONS, DIGEST_TAG, _WORKSPACE, _DELETED_STAGE, name, name
            )
        ]

    def list_runs(self) -> list[Run]:
        """The newest MAX_RUNS training runs, newest first, without imports."""
        return self._load_runs(self._query(_RUNS, _WORKSPACE, EXPERIMENT, IMPORTED_PARAM, MAX_RUNS))

    def get_run(self, run_id: str) -> Run | None:
        """The run with this id, an import too; None if there is none."""
        runs = self._load_runs(self._query(_RUN, run_id), run_id)
        return runs[0] if runs else None

    def _load_runs(self, rows: list[tuple[Any, ...]], run_id: str | None = None) -> list[Run]:
        """Add params, tags and metrics to rows of runs: of one run, or of all."""
        params = self._values_by_run("params", "value", run_id)
        tags = self._values_by_run("tags", "value", run_id)
        metrics = self._values_by_run("latest_metrics", _METRIC, run_id)
        return [
            make_run(
                run_id,
                name,
                status,
                start_ms,
                end_ms,
                params[run_id],
                {key: math.nan if value is None else value for key, value in metrics[run_id].items()},
                tags[run_id],
            )
            for run_id, name, status, start_ms, end_ms in rows
        ]

    def _values_by_run(self, table: str, value: str, run_id: str | None) -> defaultdict[str, dict[str, Any]]:
        values: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        # Both are constants of this file.
        statement = _VALUES.format(value=value, table=table)
        for run, key, entry in self._query(statement, run_id, run_id):
            values[run][key] = entry
        return values

    def _query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        if not self._file.exists():
            return []
        uri = f"{self._file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as connection:
            return connection.execute(statement, parameters).fetchall()
