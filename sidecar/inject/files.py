"""Writes files in place of others: whole, or not at all.

Owns the temporary files beside them.
"""

import os
import stat
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile


def replace_files(contents: Iterable[tuple[Path, bytes]]) -> None:
    """Gives each file its new content, once that of all of them is on the disk. Links and mode bits stay.

    Raises:
        OSError: one cannot be written; all are as they were.
    """
    with ExitStack() as undo:
        written = []
        for path, content in contents:
            place = path.resolve()
            with NamedTemporaryFile(dir=place.parent, prefix=f".{place.name}.", delete=False) as file:
                undo.callback(partial(Path(file.name).unlink, missing_ok=True))
                os.fchmod(file.fileno(), stat.S_IMODE(place.stat().st_mode))
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            written.append((Path(file.name), place))
        for temporary, place in written:
            temporary.replace(place)
