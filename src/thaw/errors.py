"""The exception for what a user can fix, and messages without tracebacks or credentials."""

import difflib
import errno
import os
import re

UNUSABLE = {errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EROFS}
# Parameters whose values are secret; the signature in a cloud storage URL is as good as a password.
SECRET = (
    r"(?:password|passphrase|passwd|pwd|secret|token|(?:api|access|secret|private)[_-]?key(?:id)?|key-pair-id|signature"
    r"|credential)s?|\b(?:user(?:name)?|odbc_connect|sig|x-(?:amz|goog)-[\w-]+)"
    r"|(?<=[?&])(?:key|rlkey|auth|authkey|pass|sas|code|jwt|hmac|bearer|policy)"
)
FULL = {errno.ENOSPC, errno.EDQUOT}


class ThawError(Exception):
    """An error that the user can fix.

    The message is one sentence: what was received, what is allowed, what to do. It is shown without a traceback; any
    other exception is a bug and keeps its traceback.
    """


def user_message(error: BaseException) -> str | None:
    """The message to show for an error that the user can fix; None for a bug, which needs its traceback."""
    text = str(error)
    if isinstance(error, ThawError):
        return redact(text)
    # An error raised while tf.data reads an image comes back as text inside a TensorFlow error.
    inside = re.search(r"ThawError: (.*)", text)
    if inside:
        return inside[1]
    # HDF5, SQLite and TensorFlow each report a full disk in an exception of their own.
    if re.search(r"No space left on device|errno = 28\b|disk is full|Disk quota exceeded", text):
        return "The disk is full; free some space and run the same command again"
    if isinstance(error, MemoryError) or re.search(r"OOM when allocating|failed to allocate|std::bad_alloc", text):
        return "Out of memory; reduce training.batch_size or dataset.image_size"
    # A path from the user that cannot be opened; a missing file may be a bug of ours.
    if isinstance(error, OSError) and error.filename and error.errno in UNUSABLE:
        return redact(f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}); fix it or give another path")
    return None


def one_line(error: object, width: int = 300) -> str:
    """The message of an error on one line of at most `width` characters, without credentials."""
    text = " ".join(redact(str(error)).split()) or type(error).__name__
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def nearest(name: str, allowed: list[str]) -> str:
    """`; did you mean X?` with the most similar allowed name; empty if none is similar."""
    by_last = {key.rpartition(".")[2]: key for key in reversed(allowed)}
    close = difflib.get_close_matches(name, allowed, n=1) or [
        by_last[match] for match in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)
    ]
    return f"; did you mean {close[0]}?" if close else ""


def redact(text: str) -> str:
    """`text` without credentials: user and password of URLs, and the values of secret parameters and signatures."""
    text = re.sub(rf"(?i)({SECRET})=('[^']*'|\"[^\"]*\"|[^&\s'\"]*)", r"\1=***", text)
    # A password may contain any character. After a colon, everything up to the last @ of the word is taken for one, or
    # up to the last @ of the line, since it may contain spaces. Digits alone are a port, brackets an IPv6 address.
    port = r"\d{1,5}(?:[^\w@]|$)"
    return re.sub(rf"(?<=://)(?!\[)(?:[^/\s@:]*:(?!{port})(?:\S*|(?:(?!://).)*)|[^/\s@:]*)@", "***@", text)
