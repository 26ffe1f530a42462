"""Every picture. Colours are Okabe and Ito's, which people with any colour vision tell apart."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"
STYLE = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 110}


def learning_curves(history: list[dict[str, float]], boundary: int, path: Path) -> None:
    """Draw loss and accuracy against the epoch.

    Args:
        history: of each epoch `loss`, `accuracy`, `val_loss`, `val_accuracy`.
        boundary: how many epochs belong to the first stage; a line marks where the second begins.
        path: of the PNG.
    """
    epochs = np.arange(1, len(history) + 1)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for axis, name, unit in zip(axes, ("loss", "accuracy"), ("Cross-entropy (nats)", "Accuracy"), strict=True):
            axis.plot(epochs, [each[name] for each in history], "o-", color=BLUE, label="training")
            axis.plot(epochs, [each[f"val_{name}"] for each in history], "s--", color=ORANGE, label="validation")
            if 0 < boundary < len(history):
                axis.axvline(boundary + 0.5, color=GREY, linestyle=":", label="fine-tuning begins")
            axis.set(xlabel="Epoch", ylabel=unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0].set_ylim(bottom=0)
        axes[0].legend(frameon=False)
        _save(figure, path)


def confusion_matrix(confusion: np.ndarray, class_names: tuple[str, ...], path: Path) -> None:
    """Draw how often each true class (row) was taken for each class (column); colours are shares of a row."""
    side = max(4.5, 0.55 * len(class_names) + 2)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
        image = axis.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        ticks = np.arange(len(class_names))
        tilt = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, class_names)) > 2 else {}
        axis.set_xticks(ticks, class_names, **tilt)
        axis.set_yticks(ticks, class_names)
        axis.set(xlabel="Predicted class", ylabel="True class")
        axis.spines[:].set_visible(False)
        if len(class_names) <= 30:
            for row, column in np.argwhere(confusion):
                colour = "black" if shares[row, column] > 0.5 else "white"
                axis.text(column, row, confusion[row, column], ha="center", va="center", color=colour, fontsize=10)
        figure.colorbar(image, ax=axis, label="Share of the true class", shrink=0.8)
        _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
