"""The one exception that is meant for people, and how exceptions are put into words, without secrets."""

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
    """Something a person can mend.

    Its message is one sentence that says what was received, what is allowed and what to do. It is
    shown without a traceback; any other exception is a defect of ours and keeps its traceback.
    """


def sentence(error: BaseException) -> str | None:
    """What to tell a person of an error that they can mend; None for a defect, which needs its traceback."""
    text = str(error)
    if isinstance(error, ThawError):
        return redact(text)
    # An error raised while tf.data reads an image comes back as text inside one of TensorFlow's.
    inside = re.search(r"ThawError: (.*)", text)
    if inside:
        return inside[1]
    # HDF5, SQLite and TensorFlow each report a full disk in their own exception.
    if re.search(r"No space left on device|errno = 28\b|disk is full|Disk quota exceeded", text):
        return "The disk is full; make room and give the same command again"
    if isinstance(error, MemoryError) or re.search(r"OOM when allocating|failed to allocate|std::bad_alloc", text):
        return "Out of memory; reduce training.batch_size or dataset.image_size"
    # A place that was given and cannot be had; that a file is not there may be a defect of ours.
    if isinstance(error, OSError) and error.filename and error.errno in UNUSABLE:
        return redact(f"{os.fsdecode(error.filename)} cannot be used ({error.strerror}); give another place or mend it")
    return None


def redact(text: str) -> str:
    """`text` without credentials: user and password of URLs, and the values of secret parameters and signatures."""
    text = re.sub(rf"(?i)({SECRET})=('[^']*'|\"[^\"]*\"|[^&\s'\"]*)", r"\1=***", text)
    # A password may contain any character. After a colon, everything up to the last @ of the word is taken for one, or
    # up to the last @ of the line, since it may contain spaces. Digits alone are a port, brackets an IPv6 address.
    port = r"\d{1,5}(?:[^\w@]|$)"
    return re.sub(rf"(?<=://)(?!\[)(?:[^/\s@:]*:(?!{port})(?:\S*|(?:(?!://).)*)|[^/\s@:]*)@", "***@", text)
