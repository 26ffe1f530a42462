"""One style for all figures: one text size, color-blind-safe colors, PNG and SVG."""

import contextlib
import io
import logging
import math
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from rich.cells import cell_len, set_cell_size

from thaw.drawings import SOFTWARE

matplotlib.use("Agg")

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it warns of fonts without a regular weight

logger = logging.getLogger(__name__)
# Okabe and Ito's colors, without the yellow that is lost on white and the black that is lost on dark pages.
NAMES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7A7A7A")
BLUE, ORANGE, GREEN, RED, GRAY, LIGHT = "#0072B2", "#D55E00", "#009E73", "#D55E00", "#808080", "#C9CED6"
LINES, MARKERS = ("-", "--", ":", "-."), ("o", "s", "^", "D", "v", "P", "X")
INK = "#1a1d21"  # of text and axes; in a page it follows the color of the text
SIZE = 9.0  # points, of all text
WIDTH, HEIGHT = 5.2, 3.4  # inches of a figure; at 72 points an inch it fits a telephone
ROW = 0.18  # inches of a row in a legend
LONGEST = 22  # characters of a class's name in a figure
FALLBACKS = (  # for scripts that DejaVu Sans lacks, on Linux, macOS and Windows
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil",
    "Noto Sans Thai", "Noto Sans Ethiopic", "Nirmala UI", "Leelawadee UI", "Ebrima",
)  # fmt: skip


def _installed() -> list[str]:
    """The installed fallbacks, including fonts newer than Matplotlib's font cache."""
    fonts = font_manager.fontManager
    # Not on macOS, where listing fonts takes seconds.
    if not set(FALLBACKS) & set(fonts.get_font_names()) and sys.platform != "darwin":
        listed = {font.fname for font in fonts.ttflist}
        for path in sorted(set(font_manager.findSystemFonts()) - listed):
            with contextlib.suppress(Exception):  # not a font that Matplotlib reads
                fonts.addfont(path)
    names = set(fonts.get_font_names())
    return [name for name in FALLBACKS if name in names]


STYLE: dict = {
    "font.size": SIZE,
    "font.family": ["DejaVu Sans", *_installed()],
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "legend.fontsize": SIZE,
    "figure.titlesize": SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.grid": False,
    "figure.dpi": 144,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "text.parse_math": False,  # names of classes may have a $
    "svg.fonttype": "path",
    "svg.hashsalt": "thaw",
}


def figure(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, plt.Axes]:
    """A figure with one pair of axes; sizes in inches."""
    return plt.subplots(figsize=(width, height), layout="constrained")


def save(drawn: Figure, path: Path) -> None:
    """Write a PNG, or what else the name ends in, and close the figure."""
    with plt.rc_context(STYLE), _glyphs():
        metadata = {"Software": SOFTWARE} if path.suffix.lower() == ".png" else None
        drawn.savefig(path, facecolor="white", metadata=metadata)
    plt.close(drawn)


@contextlib.contextmanager
def _glyphs() -> Iterator[None]:
    """Report missing glyphs once per process; Matplotlib warns of each one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing = [each for each in caught if "missing from font" in str(each.message)]
    for each in caught:
        if each not in missing:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if missing:
        _warn_of_missing_glyphs()


@cache
def _warn_of_missing_glyphs() -> None:
    logger.warning(
        "Some names have characters that no installed font covers and are drawn as boxes; install a font such as "
        "Debian's fonts-noto-cjk"
    )


def svg(drawn: Figure) -> str:
    """The figure as SVG for a page: one unit is one CSS pixel, text has the color of the page's. Closes the figure."""
    written = io.StringIO()
    with plt.rc_context(STYLE), _glyphs():
        drawn.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    width = drawn.get_size_inches()[0] * 72
    plt.close(drawn)
    text = re.sub(r"^.*?(?=<svg)", "", written.getvalue(), flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="max-width:{width:.0f}px;width:100%"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    return text.replace(INK, "currentColor")


def colors(values: Sequence[str]) -> dict[str, str]:
    """A color for each value, in their order: a sequence where they are numbers, else colors told apart by name."""
    keys = {value.rpartition("=")[0] for value in values}  # of choices that are named, as in unfreeze=20
    if len(values) > 1 and len(keys) == 1 and all(_is_number(value.rpartition("=")[2]) for value in values):
        steps = plt.get_cmap("viridis")(np.linspace(0.08, 0.86, len(values)))
        return {value: matplotlib.colors.to_hex(step) for value, step in zip(values, steps, strict=True)}
    return {value: NAMES[number % len(NAMES)] for number, value in enumerate(values)}


def legend_below(drawn: Figure, axis: plt.Axes, title: str | None = None) -> None:
    """One legend under the axes, so that it hides nothing; none where nothing has a label."""
    handles, labels = axis.get_legend_handles_labels()
    if not labels:
        return
    labels = [textwrap.fill(short(label, 144), 48) for label in labels]
    widest = max(len(line) for label in labels for line in label.splitlines())
    width, height = drawn.get_size_inches()
    columns = max(1, min(len(labels), int(11 * width / (widest + 6))))
    drawn.set_figheight(height + ROW * (math.ceil(len(labels) / columns) + bool(title)))
    drawn.legend(handles, labels, loc="outside lower center", ncols=columns, title=title)


def short(name: str, longest: int = LONGEST) -> str:
    """A name, or its beginning where it is long; wide characters such as Chinese count twice."""
    return name if cell_len(name) <= longest else f"{set_cell_size(name, longest - 1).rstrip()}…"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "all"
    return True
