"""The command line: `minicpm-o`. Translates options into calls of the API and results into lines or one JSON object."""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and leave with its exit code: 0 fine, 2 bad input, 130 Ctrl-C."""
    import sys

    from .app import run

    sys.exit(run(sys.argv[1:]))
