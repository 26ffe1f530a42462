"""What Thaw adds to Hydra: where a checkout keeps its runs, the experiment group, and errors that teach.

Hydra knows configuration only; nothing here knows of data, training or tracking.
"""

import contextlib
import io
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from thaw import config
from thaw.config import keys, nearest, whole
from thaw.errors import ThawError, redact

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, which has conf/ and experiments/
CONF = ROOT / "conf"
SUBFOLDER = "${hydra.job.num}"  # of a run, in the folder of its sweep's command
PATHS = ("dataset.path", "dataset.root", "weights.path", "store")
WORDS = ("true", "false", "null", "nan", "inf")  # that Hydra does not read as text
TEXTS = (
    "dataset.url",
    "tracking.uri",
    "dataset.name",
    "tracking.experiment",
    "tracking.register_as",
    *map("dataset.columns.{}".format, config.Columns.model_fields),
)


def register() -> None:
    """Tell Hydra about the checkout: its store `mlruns/`, and `experiments/` as a group.

    Both live in the ConfigStore, which Hydra hands on to the workers of every launcher, so that they
    hold from any folder. Each launch gets folders of its own, even within one second.

    Raises:
        ThawError: an experiment file is not YAML.
    """
    launch = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}"
    folders = {
        "store": str(ROOT / "mlruns"),
        "hydra": {
            "run": {"dir": f"${{store}}/launches/{launch}"},
            "sweep": {"dir": f"${{store}}/launches/{launch}", "subdir": SUBFOLDER},
        },
    }
    store = ConfigStore.instance()
    store.store(name="project", node=folders, package="_global_", provider="thaw")
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        group = Path("experiment", path.relative_to(ROOT / "experiments").parent).as_posix()
        try:
            node = OmegaConf.load(path)
        except Exception as error:
            raise ThawError(f"{path} is not YAML: {error}") from error
        store.store(group=group, name=path.stem, node=node, package="_global_", provider="thaw")


def check_folders(config: DictConfig) -> None:
    """Refuse another folder for what a command writes while it lasts, as that is removed at its end.

    Args:
        config: with Hydra's own configuration.

    Raises:
        ThawError: it is not the one that `register` gives.
    """
    mine = Path(config.store, "launches")
    folders = {f"hydra.{key}.dir": Path(config.hydra[key].dir) for key in ("run", "sweep")}
    others = [
        f"{key}={folder}"
        for key, folder in folders.items()
        if folder.parent != mine or not folder.name.endswith(f"_{os.getpid()}")
    ]
    subfolder = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]
    others += [f"hydra.sweep.subdir={subfolder}"] * (subfolder != SUBFOLDER)
    if others:
        raise ThawError(
            f"{others[0]} is not allowed, as a command's own folder is removed when it ends; leave it out, and give "
            "store=DIR for another place of everything"
        )


def put_flags_first() -> None:
    """Move `-m` before the overrides: Hydra takes none behind it that stand apart from the others."""
    flags = [each for each in sys.argv[1:] if each in ("-m", "--multirun")]
    sys.argv[1:] = [*flags[:1], *(each for each in sys.argv[1:] if each not in flags)]


def hand_on_credentials() -> None:
    """Move a tracking address with a password from the command line into the environment.

    Hydra and its launchers write the command line into files; the environment reaches the workers as well.
    """
    for number, argument in enumerate(sys.argv):
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "tracking.uri" and redact(value) != value:
            os.environ["MLFLOW_TRACKING_URI"] = value.strip("'\"")
            sys.argv[number] = f"{key}=${{oc.env:MLFLOW_TRACKING_URI}}"


@contextlib.contextmanager
def printed_without_credentials() -> Iterator[None]:
    """Redact credentials in what `--cfg` and `--info` print."""
    # With the abbreviations that argparse takes, but for --config-name, -cn and the like.
    if not any(re.match(r"--(cf|i)|-[ci](?![ndp])", each) for each in sys.argv[1:]):
        yield
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        print(redact(printed.getvalue()), end="")


def take_texts_as_typed() -> None:
    """Quote paths, names, URLs and the question on the command line, which Hydra might parse as numbers or lists.

    Paths become absolute, so that the recorded command works from any folder. Lists of values stay lists.
    """
    for number, argument in enumerate(sys.argv):
        key, given, value = argument.partition("=")
        name = key.lstrip("+")
        if not given or value in ("", "null") or re.fullmatch(r"(['\"]).*\1", value) or "${" in value:
            continue
        if name in PATHS and (_is_one(value) or os.path.exists(whole(value))):
            sys.argv[number] = f"{key}={_quoted(whole(value))}"
        elif name in PATHS and all(os.path.exists(whole(each)) for each in value.split(",")):
            sys.argv[number] = f"{key}={','.join(_quoted(whole(each)) for each in value.split(','))}"
        elif name == "question" or (name in TEXTS and _is_one(value)):
            sys.argv[number] = f"{key}={_quoted(value)}"


def _is_one(value: str) -> bool:
    """Whether it is a single value to Hydra, neither a list nor a function call."""
    return "," not in value and not re.match(r"\w+\(", value)


def _quoted(text: str) -> str:
    """Escaped for Hydra's grammar, in quotes only if needed."""
    if re.fullmatch(r"[A-Za-z_/][\w./-]*", text, re.ASCII) and text.lower() not in WORDS:
        return text
    escaped = re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def command(overrides: Sequence[str] | None = None) -> str:
    """The command that this process was started with, or that makes the run of these overrides, without credentials."""
    program, *given = sys.argv if overrides is None else ["train.py", *overrides]
    return shlex.join(map(redact, ["python", Path(program).name, *given]))


def parse(lines: Iterable[str]) -> list[Override]:
    """Overrides as Hydra reads them; of two for one key the later holds."""
    return list({each.key_or_group: each for each in OverridesParser.create().parse_overrides(list(lines))}.values())


def swept(task_overrides: Iterable[str], sweeper_params: dict | None) -> list[Override]:
    """The overrides of a sweep that take several values, from an experiment and from the command line."""
    params = [f"{key}={value}" for key, value in (sweeper_params or {}).items()]
    return [each for each in parse([*params, *task_overrides]) if each.is_sweep_override()]


def values(overrides: list[Override]) -> dict[str, list[str]]:
    """The keys of a sweep and the values of each, as texts; none where a sweeper draws them from an interval."""
    return {each.key_or_group: list(each.sweep_string_iterator()) if _listed(each) else [] for each in overrides}


def samples(task_overrides: Iterable[str], overrides: list[Override]) -> Iterator[DictConfig]:
    """Configurations in which every value of a sweep occurs, the other keys at their first; within Hydra's main."""
    fixed = [each.input_line for each in parse(task_overrides) if not each.is_sweep_override()]
    found = {key: listed for key, listed in values(overrides).items() if listed}
    first = {key: listed[0] for key, listed in found.items()}
    choices = [{**first, key: value} for key, listed in found.items() for value in listed] or [{}]
    for choice in choices:
        yield compose("config", [*fixed, *(f"{key}={value}" for key, value in choice.items())])


def size(overrides: list[Override]) -> int | None:
    """How many runs the product of `overrides` has; None where a sweeper draws."""
    counts = [len(found) for found in values(overrides).values()]
    return math.prod(counts) if all(counts) else None


def _listed(override: Override) -> bool:
    return override.is_choice_sweep() or override.is_range_sweep() or override.is_discrete_sweep()


def explain(error: Exception) -> str | None:
    """One sentence for a composition that failed, with the nearest right name; None for other errors."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        choices = ", ".join(error.options)
        return f"{group}={option} does not exist; choose one of {choices}{nearest(option, list(error.options))}"
    if isinstance(error, ValueError) and "--multirun, --cfg" in str(error):
        return "--cfg, --info and -m exclude each other; leave -m out to see what a run would have"
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
    options = _options(group)
    having = [option for option, known in options.items() if below in known]
    if having and len(having) < len(options):
        return f"{key} belongs to {group}={' or '.join(having)}; give that as well"
    if of_launcher:
        every = sorted({f"hydra.launcher.{name}" for known in options.values() for name in known})
        return (
            f"{key} is no key of a launcher{nearest(key, every) or '.'} The keys are in conf/hydra/launcher; "
            "hydra.launcher.slurm_additional_parameters takes other options of sbatch"
        )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = [*keys(OmegaConf.to_container(compose("config"))), "experiment", "debug", "hydra/launcher"]
    if key in known:
        return redact(f"{message} {error.__cause__ or ''}".strip())
    return f"{key} is no key of the configuration{nearest(key, known)}"


def _options(group: str) -> dict[str, list[str]]:
    """The options of a config group and the keys that each has."""
    files = sorted((CONF / group).glob("*.yaml"))
    contents = {path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=False) for path in files}
    return {option: [key for key in keys(content) if key[0] != "_"] for option, content in contents.items()}
