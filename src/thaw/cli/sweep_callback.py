"""Hydra's callback: opens the store, or a sweep, in the process that launches, before the first run."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from thaw.config import compose
from thaw.config.explain import explain
from thaw.errors import ThawError, user_message
from thaw.workspace import Workspace

if TYPE_CHECKING:
    from thaw.sweeps.parent import OpenSweep

logger = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Hydra turns exceptions of a callback into warnings, so a failure exits here.

    Attributes:
        opened: the sweep of this process, which the command closes.
    """

    opened: "OpenSweep | None" = None

    def on_run_start(self, config: DictConfig, **kwargs) -> None:
        """Create the store, and refuse what a single run would ignore."""
        launcher = config.hydra.runtime.choices["hydra/launcher"]
        if launcher != "basic":
            sys.exit(f"hydra/launcher={launcher} requires -m (multirun), even for one run")
        if config.finish.name == "soup":
            sys.exit(
                "finish=soup averages the weights of several runs; give -m and several values, such as "
                "training.finetune.learning_rate=1e-4,3e-4"
            )
        try:
            compose.check_folders(config)
            Workspace(Path(config.store)).create()
        except (ThawError, OSError) as error:
            sys.exit(user_message(error) or str(error))

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        """Open the sweep."""
        from thaw.sweeps.parent import open_sweep

        try:
            SweepCallback.opened = open_sweep(config)
        except Exception as error:
            message = user_message(error) or explain(error)
            if message is None:
                logger.exception("The sweep cannot be opened")
            sys.exit(message or 1)
