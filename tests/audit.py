"""`make audit`: known vulnerabilities of the pinned packages, and a CycloneDX bill of materials in build/.

The bill of materials needs no network. Vulnerabilities are those that PyPI tells of each version; a package that it was
not told about counts as not audited, never as safe.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NOT_AUDITED = 3


def write_bill_of_materials(file: Path) -> int:
    """Write the packages of this environment, with versions, licenses and dependencies; returns how many they are."""
    file.parent.mkdir(exist_ok=True)
    command = [BIN / "cyclonedx-py", "environment", "--pyproject", ROOT / "pyproject.toml", "--output-reproducible"]
    subprocess.run([*command, "--output-file", file, sys.executable], check=True)
    return len(json.loads(file.read_text())["components"])


def find_vulnerabilities(requirements: Path) -> list[dict[str, Any]]:
    """Ask PyPI about each pinned package; returns pip-audit's entries.

    Raises:
        RuntimeError: pip-audit could not ask.
    """
    command = [BIN / "pip-audit", "--requirement", requirements, "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True)
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1]) from None
    return dependencies


def main() -> int:
    """Do both; the exit code says what was found."""
    bill = ROOT / "build" / "sbom.json"
    print(f"bill of materials: {write_bill_of_materials(bill)} packages in {bill.relative_to(ROOT)}")
    try:
        dependencies = find_vulnerabilities(ROOT / "constraints.txt")
    except RuntimeError as error:
        print(f"vulnerabilities: NOT AUDITED, pip-audit did not reach its service: {error}")
        return NOT_AUDITED
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    vulnerable = [each for each in dependencies if each.get("vulns")]
    for each in vulnerable:
        for found in each["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version"
            print(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    print(f"vulnerabilities: {len(vulnerable)} of {len(dependencies) - len(skipped)} audited packages have known ones")
    if skipped:
        print(f"NOT AUDITED, the service does not know them or was not reached: {len(skipped)}: {', '.join(skipped)}")
    return 1 if vulnerable else NOT_AUDITED if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
