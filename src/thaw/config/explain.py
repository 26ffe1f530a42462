"""Hydra's composition errors as sentences that name the nearest right key or option."""

import contextlib
import re

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thaw.config.compose import CONF, experiments
from thaw.config.validate import keys
from thaw.errors import nearest, redact


def explain(error: Exception) -> str | None:
    """One sentence for a composition that failed; None for other errors."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        missing = str(error.missing_cfg_file)
        is_experiment = missing.startswith("experiment/")
        group, _, option = missing.partition("/") if is_experiment else missing.rpartition("/")
        options = experiments() if is_experiment else list(error.options)
        return f"{group}={option} does not exist; choose one of {', '.join(options)}{nearest(option, options)}"
    if isinstance(error, ValueError) and "--multirun, --cfg" in str(error):
        return "--cfg and --info cannot be combined with -m; leave -m out to show the configuration of one run"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    message = " ".join(str(error).split())
    if several := re.match(r"Ambiguous value for argument '([^']+)'", message):
        return redact(f"{several[1]} is a list of values, which takes -m: python train.py -m {several[1]} ...")
    unknown = re.match(r"Could not override '(?:.*@)?([^']+)'", message)
    if not unknown:
        return redact(message)
    key = unknown[1]
    of_launcher = key.startswith("hydra.launcher.")
    group, below = ("hydra/launcher", key.split(".", 2)[2]) if of_launcher else key.partition(".")[::2]
    keys_of = _options(group)
    having = [option for option, known in keys_of.items() if below in known]
    if having and len(having) < len(keys_of):
        return f"{key} belongs to {group}={' or '.join(having)}; give that as well"
    if of_launcher:
        every = sorted({f"hydra.launcher.{name}" for known in keys_of.values() for name in known})
        return (
            f"{key} is not a key of a launcher{nearest(key, every) or '.'} The keys are in conf/hydra/launcher; "
            "hydra.launcher.slurm_additional_parameters takes other options of sbatch"
        )
    is_initialized = GlobalHydra.instance().is_initialized()  # when a sweep is opened
    with contextlib.nullcontext() if is_initialized else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        known = [*keys(OmegaConf.to_container(hydra.compose("config"))), "experiment", "debug", "hydra/launcher"]
    if key in known:
        return redact(f"{message} {error.__cause__ or ''}".strip())
    if options := list(_options(name := key.rpartition(".")[2])):
        return f"{key} is not a key of the configuration; {name} is a group of its own: give {name}={'|'.join(options)}"
    return f"{key} is not a key of the configuration{nearest(key, known)}"


def _options(group: str) -> dict[str, list[str]]:
    """The options of a config group and the keys of each."""
    files = sorted((CONF / group).glob("*.yaml"))
    contents = {path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=False) for path in files}
    return {option: [key for key in keys(content) if key[0] != "_"] for option, content in contents.items()}
