"""Images that a table names, with their labels and perhaps their splits."""

import contextlib
import os
from collections import defaultdict
from functools import partial
from pathlib import Path

from thaw import config
from thaw.config import nearest
from thaw.errors import ThawError
from thaw.listing import SPLITS, Listing, class_trouble, file_trouble, plain


def tabled(path: Path, base: Path, name: str, columns: config.Columns, divided: bool) -> Listing:
    """The images that a table names.

    Args:
        path: of the table.
        base: the folder that its paths start from.
        name: of the dataset.
        columns: what they are called.
        divided: whether the splits that it may name count.
    """
    rows, known = _rows(path)
    for key, column in (("image", columns.image), ("label", columns.label)):
        if column not in known:
            raise ThawError(
                f"{path} has no column {column}, only {', '.join(known)}; set dataset.columns.{key}=NAME"
                f"{nearest(column, known)}"
            )
    divided = divided and columns.split in known
    above = _above([row[columns.image] for _, row in rows])
    base = Path(above or base)
    there = partial(_there, {}, base)
    found = Listing(name)
    same: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    for number, row in rows:
        image, label = row[columns.image], row[columns.label]
        split = (row[columns.split] or "").strip().lower() if divided else ""
        where = f"row {number} ({plain(image)})" if image else f"row {number}"
        if image is None or label is None:
            found.refused[where] = "has a cell that is no text and no number"
        elif not image:
            found.refused[where] = "names no image"
        elif divided and split not in SPLITS:
            found.refused[where] = "has a split that is none of train, val and test"
        elif trouble := class_trouble(label):
            found.refused[where] = trouble
        else:
            below = Path(os.path.relpath(image, above) if above else os.path.normpath(image)).as_posix()
            same[plain(below)].append((where, below, plain(label).strip(), SPLITS.get(split, "")))
    for listed in same.values():
        where, below, label, split = listed[0]
        if len({each[2:] for each in listed}) > 1:
            found.refused |= {each[0]: "is listed several times, with other labels or splits" for each in listed}
            continue
        found.refused |= {each[0]: "is listed before" for each in listed[1:]}
        file = there(below)
        if trouble := file_trouble(file):
            found.refused[where] = trouble
        else:
            found.add(below, label, split, file)
    if divided:
        found.given = set(found.splits)
    return found


def _above(names: list[str | None]) -> str | None:
    """The folder that has all images where every name is a whole path, so that it does not matter where that lies."""
    if not names or not all(name and os.path.isabs(name) for name in names):
        return None
    return os.path.commonpath([os.path.dirname(os.path.normpath(name)) for name in names])


def _there(known: dict[Path, dict[str, str]], base: Path, name: str) -> Path:
    """The file of that name, or the one whose name reads the same, as those in a manifest do.

    Args:
        known: keeps the names in folders that were looked through.
        base: the folder to start from.
        name: of the file.
    """
    if "\0" in name or os.path.lexists(base / name):
        return base / name
    place = base
    for part in Path(name).parts:
        if not os.path.lexists(place / part):
            if place not in known:
                known[place] = {}
                with contextlib.suppress(OSError):
                    known[place] = {plain(each): each for each in os.listdir(place)}
            part = known[place].get(plain(part), part)
        place = place / part
    return place


def _rows(path: Path) -> tuple[list[tuple[int, dict[str, str | None]]], list[str]]:
    """The rows of a table with their numbers, as a text editor counts them, and its columns; None for odd cells."""
    import pandas

    try:
        if path.suffix.lower() == ".csv":
            frame = pandas.read_csv(
                path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
            )
        else:
            frame = pandas.read_parquet(path, dtype_backend="numpy_nullable")
            frame = frame.reset_index() if frame.index.name else frame
    except Exception as error:  # of a file that only ends like a table
        raise ThawError(f"dataset.path={path} cannot be read as a table ({error}); mend it") from error
    frame.columns = [str(each).strip() for each in frame.columns]
    if twice := sorted(frame.columns[frame.columns.duplicated()]):
        raise ThawError(f"dataset.path={path} has several columns {twice[0]}; rename or remove one")

    def text(value: object) -> str | None:
        if not pandas.api.types.is_scalar(value) or isinstance(value, bytes):
            return None
        if pandas.isna(value):
            return ""
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    rows = [{key: text(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return [(number, row) for number, row in enumerate(rows, 2) if any(row.values())], list(frame.columns)
