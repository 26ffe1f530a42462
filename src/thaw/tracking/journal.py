"""Journals: what a run or a sweep records, on disk first, as an append-only file of lines.

Each line has a checksum. A damaged line is kept, since `delivery` counts lines; if the first one is damaged, the whole
journal is lost. This module is independent of MLflow; `delivery` sends the lines there.
"""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

from thaw import files
from thaw.errors import redact, user_message

NAME = "journal.jsonl"
FILES, MODEL, TENSORBOARD = "record", "model", "tensorboard"  # folders beside it
ELSEWHERE = "elsewhere"  # a file beside the journal of a sweep that was launched on another machine

# The keys of each kind of line, besides kind, time and checksum; some lines have optional ones as well.
KINDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "open": {"uri": str, "experiment": str, "name": str, "tags": dict, "parent": (str, type(None))},
    "params": {"values": dict},
    "metrics": {"values": dict, "step": int},
    "tags": {"values": dict},
    "dataset": {"name": str, "digest": str, "source": str, "profile": str, "tags": dict},
    "figures": {"history": list, "boundaries": list, "kept": int, "confusion": list, "classes": list},
    "artifacts": {"folder": str, "below": (str, type(None))},
    "model": {"folder": str},
    "end": {"status": str, "reason": str, "outcome": dict},
}
OPTIONAL = {"began", "launch", "register", "values"}
DAMAGED = {"kind": "damaged", "time": 0}


def read(folder: Path) -> list[dict]:
    """The lines of the journal in a folder, without a truncated one at its end.

    Damaged lines have the kind `damaged`; empty if the first one is damaged.
    """
    lines = [_line(text) for text in raw(folder)]
    return lines if lines and lines[0]["kind"] == "open" else []


def finished(folder: Path) -> dict | None:
    """The outcome of the run in a folder; None if it is not finished."""
    *_, last = read(folder) or [{}]
    return last["outcome"] if last.get("status") == "FINISHED" else None


def raw(folder: Path) -> list[bytes]:
    """The lines of the journal as they are on disk, with line breaks."""
    try:
        return [text for text in (folder / NAME).read_bytes().splitlines(keepends=True) if text.endswith(b"\n")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_lost(folder: Path) -> bool:
    """Whether there is a journal whose first line is damaged."""
    return bool(raw(folder)) and not read(folder)


def append(folder: Path, kind: str, /, **content) -> dict:
    """Append a line to the journal in a folder that this process has locked; durable when this returns."""
    path = folder / NAME
    _cut_truncated_line(path)
    line = {"kind": kind, "time": int(time.time() * 1000), **content}
    with path.open("ab") as file:
        file.write(json.dumps({**line, "sum": files.checksum(line)}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return line


class Record:
    """The record of one run. As a context it ends FINISHED, FAILED with the reason, or KILLED.

    In a folder that already has a journal it continues that one, and does not repeat what is there: a parameter keeps
    its first value, a metric has one value a step.

    Args:
        folder: locked by this process; gets `journal.jsonl`, and `record/` for the files to record.
        opening: the first line: names of experiment and run, the folder of the parent's journal (None: no parent), the
            URI of the tracking store, and tags.
    """

    def __init__(self, folder: Path, **opening):
        self.folder, self.files = folder, folder / FILES
        self.tensorboard, self.model_folder = folder / TENSORBOARD, folder / MODEL
        self.files.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)  # written again from the first epoch on
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
        reason = "" if killed else redact(user_message(error) or f"{kind.__name__}: {error}")
        with contextlib.suppress(OSError):  # the disk is full: the next command finds that no process holds the lock
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

    def figures(self, **shown) -> None:
        """Record what the figures of the run show, by the names that it has in `plots.training.draw_run`.

        They are drawn into `files` by whoever sends the journal, while the next run trains.
        """
        self._write("figures", **shown)

    def artifacts(self, folder: Path, below: str | None = None) -> None:
        """Record the files of a folder inside the run's own."""
        self._write("artifacts", folder=folder.relative_to(self.folder).as_posix(), below=below)

    def model(self, folder: Path, register: str | None) -> None:
        """Record a model in MLflow's format, saved in a folder inside the run's own, and register it if named."""
        self._write("model", folder=folder.relative_to(self.folder).as_posix(), register=register)

    def end(self, status: str, reason: str = "") -> None:
        """Record the end: FINISHED, FAILED or KILLED."""
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
    """A line without its checksum; `DAMAGED` if invalid. Lines of old versions have no checksum."""
    try:
        line = json.loads(text)
        checksum = line.pop("sum", None)
        wanted = KINDS[line["kind"]]
        whole = all(isinstance(line[key], types) for key, types in {"time": int, **wanted}.items())
        whole = whole and line.keys() <= {"kind", "time", *wanted, *OPTIONAL}
    except (ValueError, LookupError, AttributeError, TypeError):
        return DAMAGED
    return line if whole and checksum in (None, files.checksum(line)) else DAMAGED


def _cut_truncated_line(path: Path) -> None:
    """Remove a half-written line at the end, so that the next one starts on its own."""
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
