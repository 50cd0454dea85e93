"""What a replica imports: each module more is a longer cold start."""

import subprocess
import sys

from deployments.models.preload import MODULES

# Databases and the registry are the control application's and the directory's.
FOREIGN = ("sqlalchemy", "mlflow", "sklearn", "matplotlib")


def test_a_replica_imports_no_database_and_no_registry() -> None:
    code = f"import sys, {', '.join(MODULES)}; print([each for each in {FOREIGN} if each in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
