"""The greedy soup of a sweep: the mean of the weights of several of its runs, as one network (Wortsman et al. 2022).

From the run with the lowest validation loss on, each next one is added if that lowers the loss. A soup is recorded as a
run of its own beside them.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from thaw import progress, runtime
from thaw.config import schema
from thaw.config.validate import from_record
from thaw.data.dataset import Dataset, load_dataset
from thaw.data.splits import Split, fraction
from thaw.errors import ThawError
from thaw.modalities.images.modality import Images
from thaw.models.heads import Labels
from thaw.models.reuse import Networks
from thaw.runs import record as recording
from thaw.runs.context import Context
from thaw.runs.finishing import Finish, record_finish
from thaw.runs.results import Results
from thaw.tracking import journal, reader
from thaw.tracking.names import COMMAND, KEPT_STAGE, STAGES, stage_tag
from thaw.tracking.sent import Sent
from thaw.tracking.store import Store
from thaw.training import checkpoints
from thaw.training.checkpoints import StageResult
from thaw.training.evaluation import Evaluation, evaluate
from thaw.training.features import FeatureCache
from thaw.training.stages import Stage, plan_stages
from thaw.workspace import ROOT, Workspace

NAME = "soup"
SETTINGS = "config.yaml"
COPIED = (SETTINGS, "classes.txt", "manifest.csv", "packages.txt")  # of the run with the lowest loss
Weights = list[np.ndarray]


@dataclass(frozen=True)
class Member:
    """A finished run whose weights may be averaged with those of others.

    Attributes:
        place: its folder.
        name: in its sweep.
        settings: its configuration.
        params, tags, metrics: as recorded, metrics with their last value.
        data: the dataset as recorded.
    """

    place: Path
    name: str
    settings: schema.Config
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    data: dict

    @staticmethod
    def read(place: Path, store: Store) -> "Member":
        """The run in a folder of the workspace."""
        lines = journal.read(place)
        found: dict[str, dict] = {"params": {}, "tags": {}, "metrics": {}}
        for line in lines:
            if line["kind"] in found:
                found[line["kind"]] |= line["values"]
        settings = from_record(yaml.safe_load(_recorded(place, SETTINGS, store)))
        (*_, data), name = (line for line in lines if line["kind"] == "dataset"), lines[0]["name"]
        return Member(place, name, settings, found["params"], found["tags"], found["metrics"], data)

    @property
    def loss(self) -> float:
        """On the validation split."""
        return self.metrics["kept_val_loss"]

    @property
    def shared(self) -> str | None:
        """What has to be the same for weights to be averaged; None if they cannot be.

        Networks from random weights have nothing in common, and the mean needs the last stage of each.
        """
        settings, is_last = self.settings, self.tags[KEPT_STAGE] == self.tags[STAGES].split()[-1]
        is_random = self.params["weights"] == "random" or settings.reinit != 0
        if not settings.finish.soup or is_random or not is_last or min(settings.resolution.shares) < 1:
            return None
        names = ("weights.sha256", "image_size", "unfrozen.layers", "unfrozen.boundary", "threads")
        recorded = [self.params.get(f"with.{name}", "") for name in names]
        computed = [settings.training.precision, settings.training.strategy]
        return json.dumps(
            [settings.backbone.model_dump(), settings.head.model_dump(), self.data["digest"], recorded, computed]
        )


def make_soups(places: Iterable[Path], sweep: Path, store: Store, kept: dict) -> None:
    """Try a soup of the runs of a sweep that share a backbone, a head, images and what trains; record what is accepted.

    Args:
        places: the folders of the finished runs.
        sweep: the folder of the sweep.
        store: that it is recorded in.
        kept: the networks of this process, as `models.reuse` keeps them.
    """
    groups: dict[str, list[Member]] = {}
    here = [each for each in places if journal.finished(each) is not None]  # and not on another node
    members = [member for member in (Member.read(each, store) for each in here) if KEPT_STAGE in member.tags]
    for member in sorted(members, key=lambda each: each.loss):
        if member.shared:
            groups.setdefault(member.shared, []).append(member)
    several = [each for each in groups.values() if len(each) > 1]
    report = progress.reporter()
    *_, opening = (line for line in journal.read(sweep) if line["kind"] == "open")
    context = Context(sweep=sweep, command=opening["tags"][COMMAND], networks=kept)
    for members in several:
        report.phase(NAME)
        report.announce(_soup(members, context, store) or f"{NAME} · not accepted: no mean of runs lowers the loss")
    if not several:
        report.announce(
            f"{NAME} · not tried: no two runs share pretrained weights, head, images and what trains, and kept their "
            "last stage; where Thaw divides the images, another seed divides them otherwise"
        )


def _soup(members: list[Member], context: Context, store: Store) -> str | None:
    """Average the weights of runs, lowest validation loss first, and record the mean; None if it is not accepted."""
    began, best = time.perf_counter(), members[0]
    settings, workspace = best.settings, Workspace.of(best.place)
    dataset = load_dataset(settings.dataset, settings.seed, workspace.root)
    runtime.start(int(best.params["with.threads"]), settings.training.precision, settings.training.strategy)
    try:
        cook = _Cook(members, dataset, Networks(context.networks), workspace)
        used, weights = greedy([(each, partial(cook.weights, each)) for each in members], cook.loss)
        if len(used) < 2:
            return None
        best = used[0]  # the stages of others may be gone
        before, seconds = cook.results(best), cook.seconds(used)
        cook.network.unfreeze(before.stages[-1].depth)  # the recorded model says what trained
        cook.network.model.set_weights(weights)
        validation = cook.evaluated(dataset.validation)
        results = replace(
            before,
            evaluation=cook.evaluated(dataset.test).with_thresholds_of(validation),
            validation=validation.with_thresholds_of(validation).metrics(),
            other_seconds=seconds - before.training_seconds,
        )
        names = ", ".join(each.name for each in used)
        about = f"The mean of the weights of {len(used)} runs, which validation chose (greedy soup): {names}."
        finish = Finish(NAME, about, results)
        place = workspace.run(
            NAME, [NAME, context.sweep and context.sweep.name, sorted(each.place.name for each in used)]
        )
        own = replace(context, name=f"finish={NAME} of {len(used)} runs")
        opening = recording.opening(own, store.name, settings.experiment, "run", began, ROOT)
        with context.sending(place, store), recording.beside(place, store, opening) as record:
            if record:
                _describe(record, used, store)
                signatures = {each.name: best.tags[stage_tag(each.name)] for each in before.stages}
                recording.repeat_stages(record, before.stages, signatures, before.by_stage)
                training = cook.training(best)
                record_finish(record, settings.tracking, cook.network, training, finish, before, about, began)
        return f"{finish.summary(before).strip()} · {names}"
    finally:
        runtime.release()


def greedy(
    members: Sequence[tuple[Member, Callable[[], Weights | None]]], loss: Callable[[Weights], float]
) -> tuple[list[Member], Weights]:
    """The members whose mean has the lowest loss as they are added one by one, and that mean.

    Weights that all have keep every bit, as frozen ones must.

    Args:
        members: each with its weights, None if they are gone; in the order in which they are tried.
        loss: of weights, on validation.
    """
    used: list[Member] = []
    mean: Weights = []
    lowest = np.inf
    for member, weights_of in members:
        weights = weights_of()
        if weights is None:
            continue
        tried = [
            each + (new - each) / (len(used) + 1) if np.issubdtype(new.dtype, np.floating) else new
            for each, new in zip(mean or weights, weights, strict=True)
        ]
        if (found := loss(tried)) < lowest:
            used, mean, lowest = [*used, member], tried, found
    return used, mean


class _Cook:
    """The network that runs of a sweep share, with the weights of each of them in turn.

    Args:
        members: with the same backbone, head, dataset and depth.
        dataset: theirs.
        networks: of this process.
        workspace: has their stages.
    """

    def __init__(self, members: list[Member], dataset: Dataset, networks: Networks, workspace: Workspace):
        settings = members[0].settings
        modality, seed = Images.of(settings.dataset, settings.backbone), settings.seed
        self.dataset, self.workspace = dataset, workspace
        backbone = networks.backbone(settings.backbone, settings.weights, modality, seed, False)
        self.backbone = networks.initialize(backbone, [], None, "", 0, seed)
        if self.backbone.digest != members[0].params["with.weights.sha256"]:
            raise ThawError(
                "The initial weights have changed since the runs were trained; give finish=none, or the same"
            )
        self.stages = {each.place: self._stages(each) for each in members}
        depth = self.stages[members[0].place][-1].reached
        labels = Labels(len(dataset.class_names), dataset.is_multi_label)
        self.network = networks.network(self.backbone, settings.head, labels, modality, depth, seed)
        self.initial, self.cut = self.network.model.get_weights(), self.network.cut(depth)
        self.cache = FeatureCache(workspace.activations, settings.activations, self.network, [depth])
        self.size = settings.training.batch_size

    def weights(self, member: Member) -> Weights | None:
        """The weights that a run kept; None if one of its stages is gone."""
        for stage in self.stages[member.place]:
            if self._restored(member, stage) is None:
                return None
        return self.network.model.get_weights()

    def loss(self, weights: Weights) -> float:
        """On the validation split, in nats."""
        self.network.model.set_weights(weights)
        return self.evaluated(self.dataset.validation).metrics()["loss"]

    def results(self, member: Member) -> Results:
        """What a run came to; the network has its weights then."""
        stages = self.stages[member.place]
        by_stage = {}
        for stage in stages:
            result = self._restored(member, stage)
            assert result is not None  # as `weights` found
            by_stage[stage.name] = result
        test, validation = map(self.evaluated, (self.dataset.test, self.dataset.validation))
        return Results(stages, by_stage, stages[-1], test.with_thresholds_of(validation))

    def seconds(self, members: list[Member]) -> float:
        """The training time of all their stages, those that they share once."""
        found: dict[str, float] = {}
        for member in members:
            for stage in self.stages[member.place]:
                result = self._restored(member, stage)
                assert result is not None  # as `weights` found
                found[member.tags[stage_tag(stage.name)]] = result.seconds
        return sum(found.values())

    def training(self, member: Member) -> dict[str, Split]:
        """The images that each stage of a run trained on, by its name."""
        training, rest, seed = member.settings.training, member.settings.fraction, member.settings.seed
        shares = {name: training.section(name).fraction or rest for name in training.stages}
        return {name: fraction(self.dataset.train, share, seed) for name, share in shares.items()}

    def evaluated(self, split: Split) -> Evaluation:
        """The answers of the network as it is."""
        with self.cache:
            batches = self.cache.evaluation_batches(self.cut, split, self.size)
            return evaluate(self.cut.tail, batches, split, self.dataset.class_names)

    def _stages(self, member: Member) -> list[Stage]:
        settings, examples = member.settings, {name: len(split) for name, split in self.training(member).items()}
        return plan_stages(
            settings.training, settings.unfreeze, settings.loss, settings.regularisation, settings.optimizer,
            settings.schedule, self.backbone, examples,
        )  # fmt: skip

    def _restored(self, member: Member, stage: Stage) -> StageResult | None:
        """The result of a stage, whose weights the network gets."""
        repetition = None
        if member.settings.rerun:
            repetition = Path(journal.read(member.place)[0]["parent"] or member.place.name)
        self.network.model.set_weights(self.initial)
        folder = self.workspace.stage(member.tags[stage_tag(stage.name)], repetition)
        return checkpoints.finished(self.network.cut(stage.reached).tail, folder)


def _describe(record: journal.Record, used: list[Member], store: Store) -> None:
    """Record what a soup is: its runs' parameters, with + between different values, their dataset and files."""
    keys = dict.fromkeys(key for member in used for key in member.params)
    values = {key: list(dict.fromkeys(member.params.get(key, "") for member in used)) for key in keys}
    record.params({**{key: "+".join(each) for key, each in values.items()}, "finish": NAME})
    data = used[0].data
    record.dataset(data["name"], data["digest"], data["source"], data["profile"], data["tags"])
    for name in COPIED:
        (record.files / name).write_text(_recorded(used[0].place, name, store), encoding="utf-8", newline="")


def _recorded(place: Path, name: str, store: Store) -> str:
    """The text of a file that a run recorded, which is removed once MLflow has it.

    Raises:
        ThawError: MLflow does not answer, or has lost it.
    """
    try:
        return (place / journal.FILES / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = reader.artifact(store.client, Sent.of(place).run or "", name)
        if text is None:
            raise ThawError(f"{name} of the run {place.name} is gone from MLflow, so it cannot be averaged") from None
        return text
