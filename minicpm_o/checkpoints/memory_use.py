"""How much memory this process has taken at most. Knows nothing of models."""

from __future__ import annotations

import sys
from pathlib import Path

BYTES_PER_MB = 1_000_000


def peak_rss_mb() -> float | None:
    """Peak resident memory of this process, 10^6 bytes.

    Linux keeps it in /proc; getrusage there also counts the process that started this one, so it comes second.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = [line for line in status.read_text(encoding="ascii", errors="replace").splitlines()
                 if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0].split()[1]) * 1024 / BYTES_PER_MB
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / BYTES_PER_MB
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else peak * 1024) / BYTES_PER_MB
