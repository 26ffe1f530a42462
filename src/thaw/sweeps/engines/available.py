"""Whether an engine can be used here, with these settings."""

import shutil
import socket
from importlib.util import find_spec
from types import ModuleType

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from thaw.config.validate import sentences
from thaw.errors import ThawError
from thaw.sweeps.engines import local, ray, slurm

ENGINES: dict[str, ModuleType] = {"local": local, "slurm": slurm, "ray": ray}
PACKAGES = {"slurm": "submitit", "ray": "ray"}  # that engines need


def check_engine(launcher: DictConfig | str) -> None:
    """Refuse an engine that is not available, or settings that it does not take.

    Raises:
        ThawError: says what is missing or wrong.
    """
    if not isinstance(launcher, DictConfig):
        raise ThawError(f"hydra.launcher={launcher} names no key; choose a launcher with a slash: hydra/launcher=local")
    settings: dict = OmegaConf.to_container(launcher, resolve=True)  # type: ignore[assignment]
    settings.pop("_target_")
    engine = settings.pop("engine", None)
    if engine not in ENGINES:
        return
    package = PACKAGES.get(engine)
    if package and not find_spec(package):
        raise ThawError(
            f"hydra/launcher={engine} needs {package}, which is not installed; run pip install -e '.[{engine}]'"
        )
    if engine == "slurm" and not shutil.which("sbatch"):
        raise ThawError("hydra/launcher=slurm: sbatch was not found; run the command on a host that submits jobs")
    try:
        ENGINES[engine].Settings.model_validate(settings)
    except ValidationError as error:
        raise ThawError("; ".join(f"hydra.launcher.{each}" for each in sentences(error, settings))) from error
    host, _, port = (settings.get("address") or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ThawError(
                f"hydra.launcher.address={host}:{port}: nothing listens there; start the cluster, or give null"
            ) from error
