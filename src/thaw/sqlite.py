"""SQLite files as the addresses that MLflow and SQLAlchemy take, and back."""

import re
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

NAME = "mlflow.db"  # in a store that has its own


def address(path: Path) -> str:
    """The address of a file; in it %, ? and # are encoded.

    It names the driver then: of a bare `sqlite:///` MLflow takes the rest for a path, and makes that folder.
    """
    whole = str(path.resolve())
    encoded = re.sub("[%?#]", lambda sign: quote(sign[0]), whole)
    return f"sqlite:///{whole}" if encoded == whole else f"sqlite+pysqlite:///{encoded}"


def file(given: str) -> Path:
    """The file of an address."""
    return Path(make_url(given).database)


def resolved(given: str) -> str:
    """The same address from any folder, whose query stays; empty if it names no file."""
    try:
        parsed = make_url(given)
        if parsed.host or parsed.database in (None, "", ":memory:") or "\0" in parsed.database:
            return ""
    except (ArgumentError, ValueError):
        return ""
    return "".join([address(file(given)), *given.partition("?")[1:]])
