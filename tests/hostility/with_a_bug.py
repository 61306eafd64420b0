"""Runs the command line with bugs in it: `with_a_bug.py PORT PYTHON -m sidecar ...`.

Owns the bugs. Each line from the given port of this machine, `CALLS MODULE:NAME.OF.A.FUNCTION ERROR`, lets so many
calls of that function raise an error of that name in place of what the line before broke; every line is answered
with one. An empty line only mends.
"""

import importlib
import socket
import sys
import threading
from functools import reduce

from sidecar.cli import main
from sidecar.proxy.loop import outermost


class _Bug:
    """One broken function, until it is mended."""

    def __init__(self, calls: int, where: str, error: str) -> None:
        module, _, path = where.partition(":")
        *owners, self._name = path.split(".")
        self._owner = reduce(getattr, owners, importlib.import_module(module))
        self._whole = vars(self._owner)[self._name]
        whole, broken, left = getattr(self._owner, self._name), type(error, (Exception,), {}), [calls]

        def raising(*given: object, **named: object) -> object:
            if left[0]:
                left[0] -= 1
                raise broken("a bug")
            return whole(*given, **named)

        if isinstance(self._whole, property):
            setattr(self._owner, self._name, property(raising))
        elif hasattr(self._whole, "__wrapped__"):
            setattr(self._owner, self._name, outermost(raising))  # type: ignore[arg-type] # as it is guarded itself
        else:
            setattr(self._owner, self._name, raising)

    def mend(self) -> None:
        setattr(self._owner, self._name, self._whole)


def _follow(port: int) -> None:
    bug = None
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rw") as lines:
        for line in lines:
            if bug is not None:
                bug.mend()
            calls, *what = line.split() or ("0",)
            bug = _Bug(int(calls), *what) if what else None
            lines.write("done\n")
            lines.flush()


if __name__ == "__main__":
    threading.Thread(target=_follow, args=(int(sys.argv[1]),), daemon=True).start()
    sys.argv = ["sidecar", *sys.argv[5:]]
    sys.exit(main())
