"""`train.py`, which also writes how many seconds each part took: python benchmarks/phases.py FILE -m ..."""

import contextlib
import json
import sys
import time
from collections import Counter
from pathlib import Path

import train
from thaw.cli import terminal
from thaw.cli import train as command

PARTS = ("frozen passes", "steps", "start", "record")
BEGINNING = ("checking data", "opening MLflow", "starting TensorFlow", "loading", "building")
END = ("evaluating", "recording", "sending")


class Clock(terminal.Display):
    """The display, which adds up seconds. What comes before the first run and between runs counts as start."""

    def __init__(self):
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.part, self.since = "start", time.perf_counter()

    def turn_to(self, part: str) -> str:
        """Count from now on for that part; returns the one before."""
        now = time.perf_counter()
        self.seconds[self.part] += now - self.since
        before, self.part, self.since = self.part, part, now
        return before

    def phase(self, what: str) -> None:
        super().phase(what)
        self.turn_to("start" if what.startswith(BEGINNING) else "record" if what.startswith(END) else "steps")

    def end_run(self, summary: str, trained: bool) -> None:
        super().end_run(summary, trained)
        self.turn_to("start")

    @contextlib.contextmanager
    def step(self, what: str, total: float | None, unit: str):
        before = self.turn_to("frozen passes" if self.part != "start" else "start")
        with super().step(what, total, unit) as step:
            yield step
        self.turn_to(before)

    def stop(self) -> None:
        super().stop()
        self.turn_to("record")


def main() -> int:
    """Run the command, and write the seconds of `PARTS` as JSON."""
    clocks: list[Clock] = []

    def clock() -> Clock:
        clocks.append(Clock())
        return clocks[-1]

    file = Path(sys.argv.pop(1))
    command.terminal.Display = clock
    status = command.main(train.hydra_job)
    clocks[0].turn_to("record")
    file.write_text(json.dumps({part: clocks[0].seconds[part] for part in PARTS}))
    return status


if __name__ == "__main__":
    sys.exit(main())
