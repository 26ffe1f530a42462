"""What a run or a sweep records, on disk first: a file of lines that only grows, beside the files it speaks of.

Each line bears a checksum. A damaged one keeps its place, as lines are counted, and is not believed; where the first is
damaged, nobody knows whose the journal is. Nothing here knows MLflow; `delivery` sends the lines there, when and as
often as it must.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from thaw import durable
from thaw.errors import redact, sentence

NAME = "journal.jsonl"
ELSEWHERE = "elsewhere"  # a file beside the journal of a sweep that another machine launched, with another store


# The keys of each kind of line, besides its kind, time and checksum, and those that some lines have as well.
KINDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "open": {"uri": str, "experiment": str, "name": str, "tags": dict, "parent": (str, type(None))},
    "params": {"values": dict},
    "metrics": {"values": dict, "step": int},
    "tags": {"values": dict},
    "dataset": {"name": str, "digest": str, "source": str, "profile": str, "tags": dict},
    "artifacts": {"folder": str, "below": (str, type(None))},
    "model": {"folder": str},
    "end": {"status": str, "reason": str, "outcome": dict},
}
OPTIONAL = {"began", "launch", "register", "values"}
DAMAGED = {"kind": "damaged", "time": 0}


def read(folder: Path) -> list[dict]:
    """The lines of the journal in that folder, without one at its end that a kill or a full disk cut off.

    Damaged ones are of the kind `damaged`; nothing where the first is.
    """
    lines = [_line(text) for text in raw(folder)]
    return lines if lines and lines[0]["kind"] == "open" else []


def finished(folder: Path) -> dict | None:
    """What the run of that folder came to; None if it is not finished."""
    *_, last = read(folder) or [{}]
    return last["outcome"] if last.get("status") == "FINISHED" else None


def raw(folder: Path) -> list[bytes]:
    """The lines of the journal as they are on disk, each with its end."""
    try:
        return [text for text in (folder / NAME).read_bytes().splitlines(keepends=True) if text.endswith(b"\n")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_lost(folder: Path) -> bool:
    """Whether there is a journal of which nobody knows whose it is."""
    return bool(raw(folder)) and not read(folder)


def append(folder: Path, kind: str, /, **content) -> dict:
    """Add a line to the journal in that folder, which no other process may do then; on disk when this returns."""
    path = folder / NAME
    _mend(path)
    line = {"kind": kind, "time": int(time.time() * 1000), **content}
    with path.open("ab") as file:
        file.write(json.dumps({**line, "sum": durable.checksum(line)}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return line


class Record:
    """What is known of one run. As a context it ends: FINISHED, FAILED with the reason, or KILLED.

    Opened in a folder that has a journal already, it goes on with that one, and what it holds is not written again: a
    parameter stays as it was first, a metric has one value a step.

    Args:
        folder: claimed by this process; gets `journal.jsonl`, and `record/` for the files to record.
        opening: what the first line says: the names of the experiment and of the run, the folder of the parent's
            journal (None: it has none), where it is to be sent, and tags.
    """

    def __init__(self, folder: Path, **opening):
        self.folder, self.files = folder, folder / "record"
        self.files.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)  # it is written again, from the first epoch on
        self.known: set[tuple] = set()
        self.outcome: dict = {}
        for line in read(folder):
            self.known |= _known(line)
        self._write("open", **opening)

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            return self.end("FINISHED")
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "" if killed else redact(sentence(error) or f"{kind.__name__}: {error}")
        with contextlib.suppress(OSError):  # no room even for that: whoever looks next sees that nobody is at work
            self.end("KILLED" if killed else "FAILED", reason)

    def params(self, values: dict[str, object]) -> None:
        """Record parameters."""
        new = {key: redact(str(value)) for key, value in values.items() if ("param", key) not in self.known}
        if new:
            self._write("params", values=new)

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Record several metrics of one step."""
        new = {key: float(value) for key, value in values.items() if ("metric", key, step) not in self.known}
        if new:
            self._write("metrics", values=new, step=step)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        self._write("tags", values=values)

    def dataset(self, name: str, digest: str, source: str, profile: str, tags: dict[str, str]) -> None:
        """Record the dataset that the run used."""
        self._write("dataset", name=name, digest=digest, source=source, profile=profile, tags=tags)

    def artifacts(self, folder: Path, below: str | None = None) -> None:
        """Record the files of a folder in the run's own."""
        self._write("artifacts", folder=folder.relative_to(self.folder).as_posix(), below=below)

    def model(self, folder: Path, register: str | None) -> None:
        """Record a model that was saved in MLflow's format into a folder in the run's own; perhaps register it, too."""
        self._write("model", folder=folder.relative_to(self.folder).as_posix(), register=register)

    def end(self, status: str, reason: str = "") -> None:
        """Say that it has ended: FINISHED, FAILED or KILLED."""
        self._write("end", status=status, reason=reason, outcome=self.outcome)

    def _write(self, kind: str, /, **content) -> None:
        self.known |= _known(append(self.folder, kind, **content))


def _known(line: dict) -> set[tuple]:
    if line["kind"] == "params":
        return {("param", key) for key in line["values"]}
    if line["kind"] == "metrics":
        return {("metric", key, line["step"]) for key in line["values"]}
    return set()


def _line(text: bytes) -> dict:
    """A line, without its checksum; `DAMAGED` where it is none. Those of versions before have no checksum."""
    try:
        line = json.loads(text)
        checksum = line.pop("sum", None)
        wanted = KINDS[line["kind"]]
        whole = all(isinstance(line[key], types) for key, types in {"time": int, **wanted}.items())
        whole = whole and line.keys() <= {"kind", "time", *wanted, *OPTIONAL}
    except (ValueError, LookupError, AttributeError, TypeError):
        return DAMAGED
    return line if whole and checksum in (None, durable.checksum(line)) else DAMAGED


def _mend(path: Path) -> None:
    """Cut off a line that was half written, so that the next one stands by itself."""
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
