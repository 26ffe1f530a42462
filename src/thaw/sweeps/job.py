"""A Hydra job: what Hydra knows of a run, as the context that the run needs."""

from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from thaw import runtime
from thaw.config.overrides import command_line, parse
from thaw.config.values import Unfreeze
from thaw.errors import redact
from thaw.runs.context import Context
from thaw.sweeps.parent import Sweep


class RunFailed(Exception):
    """A run failed. It is recorded and reported; Hydra's sweepers see this."""


@dataclass(frozen=True)
class HydraJob:
    """One run of a command, as Hydra has it.

    Attributes:
        launch: its output folder.
        label: its name, with its number in a sweep, for the terminal.
        context: for the run.
        sweep: that it belongs to; None for a single run.
    """

    launch: Path
    label: str
    context: Context
    sweep: Sweep | None

    @staticmethod
    def current(composed: DictConfig, in_process: Context) -> "HydraJob":
        """The Hydra job that this process is in.

        Args:
            composed: its configuration.
            in_process: has what the runs of this process share.
        """
        hydra = HydraConfig.get()
        launch = Path(hydra.runtime.output_dir)
        chosen = {key: str(value) for key, value in hydra.runtime.choices.items() if "hydra/" not in key}
        given = {each.key_or_group: each.get_value_string() for each in parse(hydra.overrides.task)}
        context = replace(
            in_process,
            choices={**chosen, **given},
            command=command_line(hydra.overrides.task),
            threads=runtime.share_of_cores(hydra.launcher),
        )
        if not Sweep.file(launch.parent).exists():
            name = f"{chosen['backbone']} unfreeze={composed.unfreeze}"
            return HydraJob(launch, name, replace(context, name=name), None)
        sweep, number = Sweep.of(launch.parent), hydra.job.num + 1
        name = _name({key: given[key] for key in sweep.varied if key in given}, chosen)
        label = f"[{number}/{sweep.total}] {name}" if sweep.total else f"[{number}] {name}"
        context = replace(
            context,
            name=name,
            sweep=Path(sweep.place),
            depths=tuple(map(_depth, sweep.values.get("unfreeze", []))),
            first=number == 1,
        )
        return HydraJob(launch, label, context, sweep)


def _depth(value: str) -> Unfreeze:
    return int(value) if value.isdigit() else value


def _name(given: dict[str, str], chosen: dict[str, str]) -> str:
    """The swept values in few words: options of config groups stand alone, other values have their key."""
    words = [value if key in chosen else f"{key}={value}" for key, value in given.items()]
    return redact(" ".join(words)) or chosen["backbone"]
