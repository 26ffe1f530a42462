"""How much of a journal was sent to MLflow, as which run, and what MLflow refused."""

import contextlib
import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from thaw import files
from thaw.tracking import journal

SENT = "sent.json"  # beside a journal: how much of it was sent
REFUSED = "refused.jsonl"  # beside a journal: the lines that MLflow refused, and why


@dataclass
class Sent:
    """How much of a journal was sent, and as which run of which experiment in MLflow; empty before the first line.

    Attributes:
        lines: how many lines were sent.
        run, experiment: their ids.
        checksum: of these lines. If the journal's differs, all lines are sent again.
    """

    lines: int = 0
    run: str = ""
    experiment: str = ""
    checksum: int = 0

    @staticmethod
    def of(folder: Path) -> "Sent":
        """Of the journal in that folder; nothing if that is lost."""
        try:
            recorded = files.read_json(folder / SENT) or {}
            return Sent(**{key: value for key, value in recorded.items() if value is not None})
        except TypeError:
            return Sent()

    def pending(self, folder: Path) -> int:
        """How many lines are left to send."""
        return len(journal.read(folder)) - self.of_these(journal.raw(folder))

    def of_these(self, lines: list[bytes]) -> int:
        """How many of these lines were sent; 0 if they have changed, as MLflow stores no line twice."""
        return self.lines if zlib.crc32(b"".join(lines[: self.lines])) == self.checksum else 0

    def write(self, folder: Path) -> None:
        """Write it beside the journal."""
        files.write_json(folder / SENT, asdict(self))


def refuse(folder: Path, number: int, line: dict, reason: str) -> None:
    """Keep a line that MLflow refused, with its number in the journal and the reason."""
    with (folder / REFUSED).open("a") as file:
        file.write(json.dumps({"number": number, "reason": reason, "line": line}) + "\n")


def refused(folder: Path) -> set[int]:
    """The numbers of the lines that MLflow refused."""
    with contextlib.suppress(FileNotFoundError):
        return {json.loads(line)["number"] for line in (folder / REFUSED).read_text().splitlines()}
    return set()
