"""What Thaw's records are called in MLflow: every tag, parameter and metric that more than one module uses."""

# Tags of runs and sweeps
NOTE = "mlflow.note.content"  # the description, shown as Markdown
KIND = "thaw.kind"  # run, rates (of the learning-rate finder) or sweep
COMMAND = "thaw.command"  # that reproduces it
QUESTION = "thaw.question"  # of a sweep
STAGES = "thaw.stages"  # the names of a run's stages, in order; each has a tag `thaw.NAME` with its signature
REMARK = "thaw.note"  # what a person should know of a result
KEPT_STAGE = "thaw.kept_stage"  # whose weights were tested
ERROR = "thaw.error"
COMMIT = "mlflow.source.git.commit"
CLEAN = "thaw.git_clean"  # whether the tree was that of the commit
JOURNAL = "thaw.journal"  # which journal a run was sent from
SWEPT = "swept."  # prefix of the tags of a sweep: its keys with their values
PARENT = "mlflow.parentRunId"

# Parameters
DETAIL = "with."  # prefix of detailed parameters, which sorts them behind the short ones
SHORT = (
    "recipe",
    "backbone",
    "weights",
    "dataset",
    "fraction",
    "augmentation",
    "unfreeze",
    "head",
    "loss",
    "regularisation",
    "optimizer",
    "schedule",
    "resolution",
    "training",
    "finish",
)

# Metrics
VALIDATION = "kept_val_accuracy"  # orders runs; so nothing is chosen on the test split
TEST = "test_accuracy"
COST = "training_seconds"
SIZE = "trainable_parameters"
RUNS, SWEEPS = f"tags.`{KIND}` = 'run'", f"tags.`{KIND}` = 'sweep'"  # filters
NEWEST_FIRST = ["start_time DESC"]
BEST_FIRST = [f"metrics.`{VALIDATION}` DESC", f"metrics.`{SIZE}` ASC"]  # of equal ones the simplest


def stage_tag(name: str) -> str:
    """The tag with the signature of a stage."""
    return f"thaw.{name}"
