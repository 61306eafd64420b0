"""Runs the command line with a bug in it: `with_a_bug.py MODULE:NAME.OF.A.FUNCTION PYTHON -m sidecar ...`.

Owns the bug: the function's first call raises. Everything else is as it is.
"""

import importlib
import sys
from functools import reduce

from sidecar.cli import main


def break_once(where: str) -> None:
    """Puts a function that raises once in the place of this one."""
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner = reduce(getattr, owners, importlib.import_module(module))
    whole = getattr(owner, name)
    calls = iter((True,))

    def broken(*given: object, **named: object) -> object:
        if next(calls, False):
            raise AttributeError("a bug")
        return whole(*given, **named)

    setattr(owner, name, broken)


if __name__ == "__main__":
    break_once(sys.argv[1])
    sys.argv = ["sidecar", *sys.argv[5:]]
    sys.exit(main())
