"""Train one run, or with -m a sweep of them: python train.py -m backbone=effnetb0,xception unfreeze=0,20,30

The story of a run is `thaw.runs.train.train`.
"""

import sys

import hydra
from omegaconf import DictConfig

from thaw.cli.train import main, reported
from thaw.config.compose import CONF
from thaw.config.validate import validate
from thaw.runs.train import train


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def hydra_job(composed: DictConfig) -> float | None:
    """One Hydra job; returns the validation accuracy for sweepers, or raises once a failure is recorded."""
    with reported(composed) as job:
        job.outcome = train(validate(composed), job.context)
    return job.outcome.val_accuracy


if __name__ == "__main__":
    sys.exit(main(hydra_job))
