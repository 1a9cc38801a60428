"""The tests of the torch side under the lowest and the newest transformers that the package supports.

    MINICPM_O_ORACLE=DIR python benchmarks/transformers_versions.py --work DIR [VERSION …]

Each version goes into a folder of its own, laid over this environment. Without versions: the lowest that pyproject.toml
admits, and the newest of its major release that pip can find.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

TESTS = ("tests/parity", "tests/model", "tests/test_auto.py", "tests/test_official.py",
         "tests/checkpoints/test_torch_loader.py")
REPORT = common.RESULTS / "transformers_versions.json"


def lowest() -> str:
    """The version that pyproject.toml names, in full."""
    found = re.search(r'"transformers>=([\d.]+)', (common.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("pyproject.toml names no lowest transformers")
    return ".".join([*found.group(1).split("."), "0", "0"][:3])


def newest(major: str) -> str:
    """The newest release of a major version."""
    done = subprocess.run([sys.executable, "-m", "pip", "index", "versions", "transformers"], capture_output=True,
                          text=True, check=True)
    versions = re.findall(rf"\b{major}\.\d+\.\d+\b", done.stdout)
    return max(versions, key=lambda version: tuple(map(int, version.split("."))))


def install(version: str, work: Path) -> Path:
    """Folder with that version and what it needs."""
    folder = work / version
    if not folder.is_dir():
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--target", str(folder),
                        f"transformers=={version}"], check=True)
    return folder


def try_version(version: str, work: Path) -> dict[str, Any]:
    """Counts of one run of the tests. Raises SystemExit when another transformers than wanted was imported."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(install(version, work)), str(common.ROOT)])}
    seen = subprocess.run([sys.executable, "-c", "import transformers; print(transformers.__version__)"],
                          capture_output=True, text=True, env=environment, check=True).stdout.strip()
    if seen != version:
        raise SystemExit(f"transformers {seen} was imported, wanted {version}")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], cwd=common.ROOT, capture_output=True,
                          text=True, env=environment)
    print(done.stdout[-2000:])
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    return {"version": version, "passed": counts.get("passed", 0), "skipped": counts.get("skipped", 0),
            "failed": counts.get("failed", 0) + counts.get("error", 0), "exit_code": done.returncode}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("versions", nargs="*", metavar="VERSION")
    parser.add_argument("--work", type=Path, required=True, help="folder for the versions")
    given = parser.parse_args()
    first = lowest()
    rows = [try_version(version, given.work) for version in given.versions or [first, newest(first.split(".")[0])]]
    report = {"machine": common.machine(), "command": "python benchmarks/transformers_versions.py --work DIR",
              "tests": list(TESTS), "golden": bool(os.environ.get("MINICPM_O_ORACLE")), "versions": rows}
    common.publish(REPORT, report, table(report))
    return max(row["exit_code"] for row in rows)


def table(report: dict[str, Any]) -> str:
    """The counts, and where they come from."""
    rows = [(row["version"], row["passed"], row["failed"], row["skipped"]) for row in report["versions"]]
    return f"{common.table(('transformers', 'passed', 'failed', 'skipped'), rows)}\n\n{common.provenance(report)}\n"


if __name__ == "__main__":
    sys.exit(main())
