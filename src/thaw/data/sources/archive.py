"""`dataset=flowers` and others: an archive of a folder of images, downloaded and extracted once."""

import hashlib
import os
import re
import shutil
import stat
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from thaw import archives, downloads, files, runtime
from thaw.config import schema
from thaw.data.listing import Listing
from thaw.data.sources.folder import inside, list_folder
from thaw.errors import FULL, ThawError, one_line, redact

LONGEST = 80  # characters of an archive's name; file systems allow about 255, suffixes included
SIGNATURE = r"(?i)(sig|se|signature|expires|awsaccesskeyid|key-pair-id|policy|x-(amz|goog)-[\w-]+)="  # of cloud URLs
CONTENT = "content"  # the folder with what is in the archive


def listing(dataset: schema.Dataset, store: Path) -> Listing:
    """The images of a zip or tar file, downloaded and extracted once into Keras' cache."""
    if not dataset.url:
        raise ThawError("dataset.url has no value; give the address of a zip or tar file")
    root = extracted(dataset.url, dataset.sha256)
    while len(inner := inside(root)) == 1:  # archives wrap their content
        root = inner[0]
    return list_folder(root, dataset.name or root.name, dataset.layout)


def is_downloaded(url: str, sha256: str | None) -> bool:
    """Whether `extracted` downloads nothing for that archive."""
    return _folder(url, sha256).is_dir()


def extracted(url: str, sha256: str | None) -> Path:
    """The folder with the content of an archive, downloaded and extracted into Keras' cache if missing.

    Args:
        url: of a zip or tar file.
        sha256: of that file, 64 hexadecimal digits; None: not known.

    Raises:
        ThawError: it cannot be downloaded, is not the right one, is damaged, or would write elsewhere.
    """
    try:
        address = urlsplit(url)
        usable = address.scheme in ("http", "https", "ftp", "file") and address.port != 0 and not address.username
    except ValueError:  # an invalid port
        usable = False
    if not usable:
        raise ThawError(f"dataset.url={redact(url)} cannot be used; give https://HOST/FILE, without user and password")
    if address.scheme == "file" and not _is_file(address.path):
        raise ThawError(f"dataset.url={redact(url)} is not a regular file; expected the address of a zip or tar file")
    folder = _folder(url, sha256)
    try:
        return files.create_once(folder, partial(_download, url, sha256, _name(url))) / CONTENT
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ThawError(
            f"{folder} cannot be written ({error.strerror}); set KERAS_HOME to a folder that can"
        ) from error


def _is_file(path: str) -> bool:
    """Whether it is a regular file, unlike /dev/zero, which never ends."""
    try:
        return stat.S_ISREG(os.stat(url2pathname(path)).st_mode)
    except (OSError, ValueError):
        return False


def _name(url: str) -> str:
    """The name of the file."""
    return PurePosixPath(urlsplit(url).path).name[-LONGEST:]


def _folder(url: str, sha256: str | None) -> Path:
    """The folder of an archive in Keras' cache."""
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
    parts = urlsplit(url)
    query = "&".join(each for each in parts.query.split("&") if not re.match(SIGNATURE, each))
    unsigned = parts._replace(query=query).geturl()  # another signature, the same file
    digest = hashlib.sha256(f"{unsigned} {sha256}".encode()).hexdigest()[:10]
    return cache / f"{_name(url).partition('.')[0]}-{digest}"


def _download(url: str, sha256: str | None, name: str, folder: Path) -> None:
    with runtime.quiet():
        from keras.utils import get_file

    try:
        with downloads.hurried():
            archive = get_file(
                name, url, file_hash=sha256, hash_algorithm="sha256", cache_dir=folder, cache_subdir="archive"
            )
    except Exception as error:  # Keras raises plain ones
        if getattr(error, "errno", None) in FULL:
            raise
        raise ThawError(
            f"{redact(url)} cannot be downloaded ({one_line(error)}); give the command again, or another dataset.url"
            + (", or the dataset.sha256 of that file (null: none)" if sha256 else "")
        ) from error
    archives.unpack(Path(archive), redact(url), folder / CONTENT)
    shutil.rmtree(folder / "archive")
