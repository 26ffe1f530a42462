"""What Thaw adds to Hydra's composition: the checkout's store, and `experiments/` as a config group."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from thaw.config.overrides import parse, sweep_values
from thaw.errors import ThawError
from thaw.workspace import DEFAULT, ROOT, Workspace

CONF = ROOT / "conf"
EXPERIMENTS = ROOT / "experiments"
RUN_FOLDER = "${hydra.job.num}"  # of a run, in the folder of its command


def register() -> None:
    """Add the store and the experiments of this checkout to Hydra's ConfigStore.

    Hydra passes the ConfigStore on to the workers of every launcher, so both work from any folder. Each command gets a
    folder of its own, even within one second.

    Raises:
        ThawError: an experiment file is not YAML.
    """
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    launch = str(Workspace(Path("${store}")).launch(name))
    project = {
        "store": str(DEFAULT),
        "hydra": {"run": {"dir": launch}, "sweep": {"dir": launch, "subdir": RUN_FOLDER}},
    }
    store = ConfigStore.instance()
    store.store(name="project", node=project, package="_global_", provider="thaw")
    for path in sorted(EXPERIMENTS.rglob("*.yaml")):
        group = Path("experiment", path.relative_to(EXPERIMENTS).parent).as_posix()
        try:
            node = OmegaConf.load(path)
        except Exception as error:
            raise ThawError(f"{path} is not YAML: {error}") from error
        store.store(group=group, name=path.stem, node=node, package="_global_", provider="thaw")


def experiments() -> list[str]:
    """The experiments of this checkout, as `experiment` takes them; those in folders as FOLDER/NAME."""
    files = EXPERIMENTS.rglob("*.yaml")
    return sorted(file.relative_to(EXPERIMENTS).with_suffix("").as_posix() for file in files)


def check_folders(composed: DictConfig) -> None:
    """Refuse another output folder for Hydra, as it is removed when the command ends.

    Args:
        composed: with Hydra's own configuration.

    Raises:
        ThawError: it is not the one that `register` sets.
    """
    launches = Workspace(Path(composed.store)).launches
    folders = {f"hydra.{key}.dir": Path(composed.hydra[key].dir) for key in ("run", "sweep")}
    others = [
        f"{key}={folder}"
        for key, folder in folders.items()
        if folder.parent != launches or not folder.name.endswith(f"_{os.getpid()}")
    ]
    sweep: dict = OmegaConf.to_container(composed.hydra.sweep, resolve=False)  # type: ignore[assignment]
    subfolder = sweep["subdir"]
    others += [f"hydra.sweep.subdir={subfolder}"] * (subfolder != RUN_FOLDER)
    if others:
        raise ThawError(
            f"{others[0]} is not allowed, as the output folder is removed when a command ends; leave it out, and give "
            "store=DIR to keep everything elsewhere"
        )


def samples(task_overrides: Iterable[str], overrides: list[Override]) -> Iterator[DictConfig]:
    """Configurations in which every value of a sweep occurs, the other keys at their first value.

    Hydra must be initialized.
    """
    fixed = [each.input_line or "" for each in parse(task_overrides) if not each.is_sweep_override()]
    values = {key: listed for key, listed in sweep_values(overrides).items() if listed}
    first = {key: listed[0] for key, listed in values.items()}
    choices = [{**first, key: value} for key, listed in values.items() for value in listed] or [{}]
    for choice in choices:
        yield hydra.compose("config", [*fixed, *(f"{key}={value}" for key, value in choice.items())])
