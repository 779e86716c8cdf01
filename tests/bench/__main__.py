"""`python -m tests.bench [NAME...]`: the measurements, each a module here with a `main`; all where none is named.

They print figures and assert none: machines differ, so compare the rows of one run.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    """The modules that measure something."""
    return sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_"))


def main() -> int:
    """Runs what is named; 2 when there is no such measurement."""
    asked = sys.argv[1:] or names()
    if unknown := set(asked) - set(names()):
        print(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    for name in asked:
        module = import_module(f"tests.bench.{name}")
        print(f"== {name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        module.main()
    return 0


sys.exit(main())
