"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path, op: str) -> Iterator[str]:
    """A temporary name beside path; what was written there is on the disk and at path when the with block ends without an error.
    After an error, a crash or a full disk the file that was at path is still there.

    Raises:
        FileNotFoundError: path's folder does not exist.
        IsADirectoryError: path is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{op}: no such directory: {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"{op}: path must be a file's, got the directory {path}")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _sync(path.parent, os.O_RDONLY)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _sync(path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
