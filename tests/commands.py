"""The commands run in this process, and the runs that they record."""

from thaw.cli import process
from thaw.tracking.sender import start_thread

START_PROCESS = process.start_process
process.start_process = start_thread  # a process takes seconds to start; what it calls can be replaced in a thread


def train() -> int:
    """`train.py` with the words of `sys.argv`; its exit status."""
    import train
    from thaw.cli.train import main

    return main(train.hydra_job)


def runs_of(client, parent):
    """The runs of a sweep."""
    return client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")


def sweeps_of(client):
    """All sweeps."""
    experiments = [each.experiment_id for each in client.search_experiments()]
    return client.search_runs(experiments, "tags.`thaw.kind` = 'sweep'")


def numbers(client, run):
    """The history of every metric of a run that must repeat to the last bit."""
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
    return {name: [point.value for point in client.get_metric_history(run.info.run_id, name)] for name in names}
