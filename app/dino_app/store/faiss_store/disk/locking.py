"""The lock that the one writer of a folder holds; it goes when its process does."""

import fcntl
import os
from pathlib import Path

from dino_app.errors import StoreLockedError

NAME = "LOCK"


def lock_folder(folder: Path) -> int:
    """Become the writer of a folder; the lock lasts until the returned file is closed.

    Raises:
        StoreLockedError: Another process holds it.
        OSError: The file cannot be written.
    """
    lock = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 20).decode(errors="replace") or "unknown"
        os.close(lock)
        raise StoreLockedError(
            f"another process writes to {folder} (its number is {holder}); close it, or open the "
            "index for reading"
        ) from error
    os.truncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock
