"""What trained weights give without another training: averaged views, calibrated probabilities, averaged weights.

Each is accepted by the validation loss alone, and recorded as a run of its own beside the one that it came from.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from thaw.config import schema
from thaw.data.dataset import Dataset
from thaw.data.splits import Split
from thaw.models.network import Network
from thaw.plots.style import save
from thaw.plots.training import reliability
from thaw.runs.results import Results, record_results
from thaw.tracking.journal import Record
from thaw.training.batches import PLAIN, Views
from thaw.training.evaluation import Evaluation, evaluate

TEST_VIEWS = schema.Augmentation(name="test", flip=True, crop=0.75)  # at least three quarters of the area
SHOWN = ("accuracy", "loss", "calibration_error")  # of the test images
TEMPERATURES = np.geomspace(0.05, 20, 2001)  # 1 among them
NOT_ACCEPTED = "not accepted: the validation loss is no lower"
SHARES = np.linspace(0.1, 0.9, 9)  # of the fine-tuned weights

Batches = Callable[..., tf.data.Dataset]  # (cut, split, views=, number=) -> one view of the split, in order


@dataclass(frozen=True)
class Finish:
    """What was accepted.

    Attributes:
        name: tta, temperature or wise_ft.
        about: what it is, in one sentence.
        results: of the run, with its own evaluation.
        has_model: whether the network as it is now gives these probabilities.
    """

    name: str
    about: str
    results: Results
    has_model: bool = True

    def summary(self, before: Results) -> str:
        """What it changed, in one line for a terminal."""
        was, now = before.evaluation.metrics(), self.results.evaluation.metrics()
        changes = (f"{name.replace('_', ' ')} {was[name]:.3f} to {now[name]:.3f}" for name in SHOWN)
        return f"  {self.name} · accepted by validation · test {', '.join(changes)}"


def record_finish(
    record: Record,
    tracking: schema.Tracking,
    network: Network,
    training: dict[str, Split],
    finish: Finish,
    before: Results,
    about: str,
    began: float,
) -> None:
    """As `record_results`, with a reliability diagram before and after.

    Args:
        record: of the finish.
        tracking: whether to record the model, and under which name.
        network: with its weights.
        training: the images of each stage.
        finish: what was accepted.
        before: the results of the run that it came from.
        about: the description of that run as Markdown.
        began: when that run began.
    """
    curves = {}
    for name, results in (("before", before), (finish.name, finish.results)):
        confidence, accuracy, _ = results.evaluation.calibration()
        curves[name] = confidence, accuracy, results.evaluation.calibration_error()
    save(reliability(curves), record.files / "reliability.png")
    tracking = tracking if finish.has_model else tracking.model_copy(update={"model": False, "register_as": None})
    record_results(record, tracking, network, training, finish.results, f"{finish.about} {about}", began)


def finishes(
    settings: schema.Finish,
    network: Network,
    before: Results,
    weights: dict[str, list[np.ndarray]],
    batches: Batches,
    dataset: Dataset,
    seed: int,
) -> Iterator[tuple[str, Finish | None]]:
    """Try what is asked for; while one is handled the network has its weights, and afterwards those it had before.

    Args:
        settings: what to try.
        network: with the weights that were tested.
        before: the results of the run.
        weights: of the network after each stage, perhaps but the last, by name.
        batches: one view of a split.
        dataset: has validation and test images.
        seed: of the views.

    Yields:
        The name of each, and what came of it: None if validation is no better for it.
    """
    if not (settings.wise_ft or settings.temperature or settings.views):
        return
    tried, found = _Tried(network, before, batches, dataset), network.model.get_weights()
    if settings.wise_ft:
        first, is_last = before.stages[0], before.selected is before.stages[-1]
        yield "wise_ft", tried.wise_ft(weights[first.name]) if is_last and before.selected is not first else None
        network.model.set_weights(found)
    if settings.temperature:
        yield "temperature", tried.temperature()
        network.model.set_weights(found)
    if settings.views:
        yield "tta", tried.averaged_views(settings.views, seed)


class _Tried:
    """Tries one after the other, against the run's own validation loss."""

    def __init__(self, network: Network, before: Results, batches: Batches, dataset: Dataset):
        self.network, self.before, self.batches, self.dataset = network, before, batches, dataset
        self.cut = network.cut(before.selected.reached)
        self.validation = self._evaluated(dataset.validation)

    def wise_ft(self, head: list[np.ndarray]) -> Finish | None:
        """Weights between those of the first stage and the fine-tuned ones (Wortsman et al. 2022, WiSE-FT)."""
        tuned = self.network.model.get_weights()
        losses = {}
        for share in SHARES:
            self.network.model.set_weights(_between(head, tuned, share))
            losses[share] = self._evaluated(self.dataset.validation).metrics()["loss"]
        best = min(losses, key=losses.__getitem__)
        self.network.model.set_weights(_between(head, tuned, best))
        about = f"Weights between the first stage and the last one, with {best:.0%} of the last (WiSE-FT)."
        return self._accepted("wise_ft", about, self._evaluated)

    def temperature(self) -> Finish | None:
        """Probabilities at the temperature with the lowest validation loss (Guo et al. 2017)."""
        probabilities = np.clip(self.validation.probabilities.astype(np.float64), 1e-12, 1.0)
        logits = np.log(probabilities)
        if self.dataset.is_multi_label:
            logits -= np.log(np.clip(1.0 - probabilities, 1e-12, 1.0))
        losses = [_loss(logits / each, self.validation.labels) for each in TEMPERATURES]
        temperature = float(TEMPERATURES[int(np.argmin(losses))])
        last = self.network.head[-1]
        last.set_weights([each / temperature for each in last.get_weights()])  # the same as dividing logits
        about = f"Probabilities at the temperature {temperature:.3g}, which validation chose."
        return self._accepted("temperature", about, self._evaluated)

    def averaged_views(self, count: int, seed: int) -> Finish | None:
        """The mean of the probabilities of the image and of flipped and cropped views of it."""

        def averaged(split: Split) -> Evaluation:
            views = Views(TEST_VIEWS, seed, count)
            evaluations = [self._evaluated(split), *(self._evaluated(split, views, n) for n in range(1, count))]
            mean = np.mean([each.probabilities for each in evaluations], axis=0)
            return replace(evaluations[0], probabilities=mean)

        about = f"The mean over {count} views of each image, flipped and cropped (test-time augmentation)."
        return self._accepted("tta", about, averaged, has_model=False)

    def _accepted(
        self, name: str, about: str, evaluated: Callable[[Split], Evaluation], has_model: bool = True
    ) -> Finish | None:
        """What validation accepts; the test images are looked at only then."""
        validation = evaluated(self.dataset.validation)
        if not validation.metrics()["loss"] < self.validation.metrics()["loss"]:
            return None
        test = evaluated(self.dataset.test).with_thresholds_of(validation)
        metrics = validation.with_thresholds_of(validation).metrics()
        return Finish(name, about, replace(self.before, evaluation=test, validation=metrics), has_model)

    def _evaluated(self, split: Split, views: Views = PLAIN, number: int | None = None) -> Evaluation:
        batches = self.batches(self.cut, split, views=views, number=number)
        return evaluate(self.cut.tail, batches, split, self.dataset.class_names)


def _between(one: list[np.ndarray], other: list[np.ndarray], share: float) -> list[np.ndarray]:
    """The weights with `share` of the other's; states of random numbers are the other's."""
    pairs = zip(one, other, strict=True)
    return [(1 - share) * a + share * b if np.issubdtype(b.dtype, np.floating) else b for a, b in pairs]


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy in nats, the mean over examples; of several labels the mean over classes as well."""
    if labels.ndim == 2:
        return float((np.logaddexp(0.0, logits) - labels * logits).mean())
    highest = logits.max(axis=1, keepdims=True)
    normalizer = highest[:, 0] + np.log(np.exp(logits - highest).sum(axis=1))
    return float((normalizer - logits[np.arange(len(labels)), labels]).mean())
