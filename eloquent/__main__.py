"""`python -m eloquent`."""

from __future__ import annotations

from eloquent.cli import main

if __name__ == "__main__":
    main()
