"""Paths that the user gave."""

import contextlib
import os
from pathlib import Path

from thaw.errors import ThawError

SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")  # of the kernel, some without an end


def existing_path(key: str, given: str | None) -> Path:
    """The path that a key is set to; it may be missing, but not unreadable.

    Raises:
        ThawError: the key has no value, or its path cannot be read or is a system folder.
    """
    if not given:
        raise ThawError(f"{key} has no value; give one with {key}=...")
    path = Path(given)
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            path.stat()
    except OSError as error:
        raise ThawError(f"{key}={given} cannot be read ({error.strerror}); give one that can") from error
    if os.path.isdir(path) and is_system(path):
        raise ThawError(f"{key}={given} is a system directory; choose a folder of images")
    return path


def is_system(folder: Path) -> bool:
    """Whether a folder belongs to the kernel, except for shared memory."""
    real = folder.resolve()
    return any(map(real.is_relative_to, SYSTEM_FOLDERS)) and not real.is_relative_to("/dev/shm")
