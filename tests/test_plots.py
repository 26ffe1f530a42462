import warnings

import numpy as np
import pytest

from thaw.plots import comparison, style, training


def test_signs_that_no_font_has_are_one_sentence(tmp_path, caplog):
    style._warn_of_missing_glyphs.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(2):  # Egyptian hieroglyphs, for which hardly anybody has a font
            drawn = training.confusion_matrix(np.eye(2, dtype=int), ("\N{EGYPTIAN HIEROGLYPH A001}", "cat"))
            style.save(drawn, tmp_path / f"{number}.png")
            style.svg(training.confusion_matrix(np.eye(2, dtype=int), ("\N{EGYPTIAN HIEROGLYPH A001}", "cat")))
    (line,) = caplog.messages
    assert "are drawn as boxes; install a font such as" in line


def test_other_warnings_still_come(tmp_path):
    with pytest.warns(UserWarning, match="mine"), style._glyphs():
        warnings.warn("mine", stacklevel=1)


def test_fonts_that_are_there_are_used(monkeypatch):
    there = style.font_manager.fontManager.get_font_names()
    monkeypatch.setattr(style, "FALLBACKS", ("No Such Font", there[0], there[1]))
    assert style._installed() == there[:2]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cat", "cat"), ("x" * 300, "x" * 21 + "…"), ("苹" * 300, "苹" * 10 + "…"), ("苹" * 11, "苹" * 11)],
)
def test_long_names_are_shortened_by_their_width(name, shown):
    assert style.short(name) == shown


@pytest.mark.parametrize(("boundaries", "words"), [([], None), ([2], "fine-tuning begins"), ([1, 2], "a stage begins")])
def test_the_boundaries_between_stages_are_explained_once(boundaries, words):
    history = [{"loss": 1.0, "val_loss": 1.0, "accuracy": 0.5, "val_accuracy": 0.5}] * 3
    (legend,) = training.learning_curves(history, boundaries, 0).legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[3:] == ([words] if words else [])


@pytest.mark.parametrize(("count", "named"), [(4, 4), (12, 3)])
def test_of_many_points_only_those_on_the_front_are_named(count, named):
    """By hand: the first of each four is better than all before it, the others are not."""
    scores = [comparison.Scored(0.5 + number // 4 / 10 - number % 4 / 100, 0.4, 0.9) for number in range(count)]
    points = {f"variant {number}": (1.0 + number, score) for number, score in enumerate(scores)}
    (axis,) = comparison.pareto(points, "Test accuracy").axes
    shown = [text.get_text() for text in axis.texts]
    assert len(shown) == named
    assert set(shown) >= {f"variant {number}" for number in range(0, count, 4)}
