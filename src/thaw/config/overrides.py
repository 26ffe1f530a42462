"""Hydra's overrides: what a command sweeps over, and the command that reproduces a run."""

import math
import shlex
from collections.abc import Iterable, Mapping

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from thaw.errors import redact


def command_line(words: Iterable[str]) -> str:
    """`python train.py WORDS` for a shell, without credentials."""
    return shlex.join(map(redact, ["python", "train.py", *words]))


def parse(lines: Iterable[str]) -> list[Override]:
    """Overrides as Hydra parses them; the last one of a key counts."""
    return list({each.key_or_group: each for each in OverridesParser.create().parse_overrides(list(lines))}.values())


def sweep_overrides(task_overrides: Iterable[str], sweeper_params: Mapping | None) -> list[Override]:
    """The overrides with several values, from an experiment and from the command line."""
    params = [f"{key}={value}" for key, value in (sweeper_params or {}).items()]
    return [each for each in parse([*params, *task_overrides]) if each.is_sweep_override()]


def sweep_values(overrides: list[Override]) -> dict[str, list[str]]:
    """The swept keys and the values of each as text; no values if a sweeper draws them from an interval."""
    return {each.key_or_group: list(each.sweep_string_iterator()) if _is_list(each) else [] for each in overrides}


def sweep_size(overrides: list[Override]) -> int | None:
    """The number of runs in the product of `overrides`; None if a sweeper draws values."""
    counts = [len(values) for values in sweep_values(overrides).values()]
    return math.prod(counts) if all(counts) else None


def _is_list(override: Override) -> bool:
    return override.is_choice_sweep() or override.is_range_sweep() or override.is_discrete_sweep()
