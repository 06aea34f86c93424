"""The command line's entry: `eloquent`, or `python -m eloquent`."""

from __future__ import annotations

import sys

LIBRARIES = ("click", "rich")
"""What the command line needs beyond the library itself: the extra `cli`."""


def main() -> None:
    """Run the command line; errors of the library become one line and exit status 1."""
    try:
        from eloquent.commands import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in LIBRARIES:
            raise
        sys.exit(f"the command line needs {missing}: pip install 'eloquent-stream[cli]'")
    run()
