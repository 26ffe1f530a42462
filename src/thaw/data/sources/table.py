"""`dataset=table`: a CSV, TSV or Parquet file with a path, a label and perhaps a split in each row."""

import codecs
import contextlib
import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path

import numpy as np

from thaw.config import schema
from thaw.data.listing import SPLITS, Listing, class_problem, file_problem
from thaw.data.sources.paths import existing_path
from thaw.errors import ThawError, nearest
from thaw.normalization import normalized, stripped

SEP = re.compile(r"sep=.\s*$", re.IGNORECASE)  # a first line that Excel writes
SEPARATORS = (",", ";", "\t", "|")
LEFT_OUT = "left out"  # the column of a run's manifest that says why an image was not used
Row = tuple[int, dict[str, str | None]]  # its number and its text by column; None for other types
Labeled = tuple[str, str, tuple[str, ...], str]  # where it is listed, name, classes and split of an image


def listing(dataset: schema.Dataset, store: Path) -> Listing:
    """The images, labels and (with such a column) splits that a CSV, TSV or Parquet file names."""
    path = existing_path("dataset.path", dataset.path)
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet") or not os.path.isfile(path):
        raise ThawError(
            f"dataset.path={dataset.path} is not a table; give a .csv, .tsv or .parquet file of images and labels"
        )
    base = existing_path("dataset.root", dataset.root) if dataset.root else path.parent
    divided = dataset.fold is None and dataset.layout in ("auto", "validation")
    columns = dataset.columns or schema.Columns()
    return list_table(path, base, dataset.name or path.stem, columns, divided, dataset.multi_label)


def list_table(
    path: Path, base: Path, name: str, columns: schema.Columns, divided: bool, multi_label: bool = False
) -> Listing:
    """List the images that a table names.

    Args:
        path: of the table.
        base: the folder that its paths start from.
        name: of the dataset.
        columns: their names.
        divided: whether its splits are used.
        multi_label: whether an image has any number of classes: those in its cell, and in those of its other rows.
    """
    rows, known, rejected = _rows(path, {columns.image, columns.label, columns.split})
    for key, column in (("image", columns.image), ("label", columns.label)):
        if column not in known:
            raise ThawError(
                f"{path} has no column {column}, only {', '.join(filter(None, known)) or 'empty ones'}; "
                f"set dataset.columns.{key}=NAME{nearest(column, known)}"
            )
    divided = divided and columns.split in known
    above = _above([row[columns.image] for _, row in rows])
    base = Path(above or base)
    there = partial(_there, {}, base)
    found = Listing(name, rejected=rejected)
    for listed in _by_image(rows, columns, divided, above, multi_label, found.rejected).values():
        where, below, classes, split = listed[0]
        if len({each[2:] for each in listed}) > 1:
            found.rejected |= {each[0]: "is listed several times with different labels or splits" for each in listed}
            continue
        found.rejected |= {each[0]: "is a repetition" for each in listed[1:]}
        file = there(below)
        if problem := file_problem(file):
            found.rejected[where] = problem
        else:
            found.add(below, classes, split, file)
    if multi_label and found.classes and all(len(classes) < 2 for classes in found.classes):
        raise ThawError(
            f"No image in {path} has several classes, separated by {columns.separator!r} in {columns.label}; set "
            "dataset.columns.separator, or dataset.multi_label=false"
        )
    if divided:
        found.predefined_splits = set(found.splits)
    return found


def _by_image(
    rows: list[Row],
    columns: schema.Columns,
    divided: bool,
    above: str | None,
    multi_label: bool,
    rejected: dict[str, str],
) -> dict[str, list[Labeled]]:
    """The rows that can be used by the normalized name of their image; those that cannot are added to `rejected`.

    In a multi-label table an image has one entry, with the classes of all its rows, if all of these can be used.
    """
    found: dict[str, list[Labeled]] = defaultdict(list)
    partial_labels: dict[str, str] = {}  # images with a row that cannot be used, and where that is
    for number, row in rows:
        image, label = row[columns.image], row[columns.label]
        where = f"row {number} ({normalized(image)})" if image else f"row {number}"
        below = Path(os.path.relpath(image, above) if above else os.path.normpath(image)).as_posix() if image else ""
        names = _class_names(label or "", columns.separator, multi_label)
        split = (row[columns.split] or "").strip().lower() if divided else ""
        if problem := row.get(LEFT_OUT) or _problem(image, label, names, split, divided, multi_label):
            rejected[where] = problem
            partial_labels[normalized(below)] = where
        else:
            classes = tuple(sorted(set(map(stripped, names))))
            found[normalized(below)].append((where, below, classes, SPLITS.get(split, "")))
    if not multi_label:
        return found
    for key in found.keys() & partial_labels.keys():
        rejected |= {each[0]: f"cannot be used without {partial_labels[key]}" for each in found.pop(key)}
    return {key: _merged(listed) for key, listed in found.items()}


def _problem(
    image: str | None, label: str | None, names: list[str], split: str, divided: bool, multi_label: bool
) -> str:
    """Why a row cannot be used; empty if it can."""
    if image is None or label is None:
        return "has a cell that is neither text nor a number"
    if not image:
        return "has no image"
    if divided and split not in SPLITS:
        return "has a split other than train, val and test"
    if multi_label and any("|" in name for name in names):
        return "has a class name with |, which separates classes in what Thaw writes; rename it"
    return next(filter(None, map(class_problem, names)), "")


def _class_names(label: str, separator: str, multi_label: bool) -> list[str]:
    """The names of classes in a cell, as written."""
    return [each for each in label.split(separator) if each.strip()] if multi_label else [label]


def _merged(listed: list[Labeled]) -> list[Labeled]:
    """One entry with the classes of all rows of an image, if they are of one split."""
    if len({split for *_, split in listed}) > 1:
        return listed
    where, below, _, split = listed[0]
    return [(where, below, tuple(sorted({name for _, _, classes, _ in listed for name in classes})), split)]


def _above(names: list[str | None]) -> str | None:
    """The common folder of the images if all paths are absolute, so that names do not depend on its location."""
    known = [name for name in names if name and os.path.isabs(name)]
    if not known or len(known) < len(names):
        return None
    return os.path.commonpath([os.path.dirname(os.path.normpath(name)) for name in known])


def _there(known: dict[Path, dict[str, list[str]]], base: Path, name: str) -> Path:
    """The file of that name, or one with the same normalized name, as manifests have.

    Args:
        known: caches the names in folders.
        base: the folder to start from.
        name: of the file.
    """
    if "\0" in name or os.path.lexists(base / name):
        return base / name
    return next(_alike(known, base, Path(name).parts), base / name)


def _alike(known: dict[Path, dict[str, list[str]]], place: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """What exists below a folder under names that normalize to `parts`."""
    if not parts:
        yield place
        return
    if place not in known:
        known[place] = defaultdict(list)
        with contextlib.suppress(OSError):
            for each in sorted(os.listdir(place)):
                known[place][normalized(each)].append(each)
    for each in known[place].get(normalized(parts[0]), [".."] * (parts[0] == "..")):
        yield from _alike(known, place / each, parts[1:])


def _rows(path: Path, wanted: set[str]) -> tuple[list[Row], list[str], dict[str, str]]:
    """The rows of a table, its columns, and the rejected rows: those with more fields than columns."""
    try:
        rows, columns, rejected = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _text_rows(path, wanted)
    except UnicodeDecodeError as error:
        raise ThawError(f"dataset.path={path} cannot be read as a table: it is not UTF-8; save it as UTF-8") from error
    except Exception as error:  # of a file that only ends like a table
        raise ThawError(f"dataset.path={path} cannot be read as a table ({error}); fix it") from error
    if twice := sorted(name for name, count in Counter(columns).items() if count > 1 and name in wanted):
        raise ThawError(f"dataset.path={path} has several columns {twice[0]}; rename or remove one")
    return [(number, row) for number, row in rows if any(row.values())], columns, rejected


def _text_rows(path: Path, wanted: set[str]) -> tuple[list[Row], list[str], dict[str, str]]:
    """Rows of a text file, numbered by line. No column becomes an index, however many fields a row has."""
    with path.open(newline="", encoding=_encoding(path)) as file:
        lines = enumerate(file, 1)
        first, header = next(((n, line) for n, line in lines if line.strip() and not SEP.match(line)), (1, ""))
        file.seek(0)
        for _ in range(first - 1):
            file.readline()
        reader = csv.reader(file, delimiter=_separator(header, wanted), strict=True)
        columns = [stripped(each) for each in next(reader, [])]
        rows: list[Row] = []
        rejected, number = {}, first + reader.line_num
        for fields in reader:
            if any(each.strip() for each in fields[len(columns) :]):
                rejected[f"row {number}"] = f"has {len(fields)} fields, expected {len(columns)}"
            else:
                rows.append((number, dict(zip_longest(columns, fields[: len(columns)], fillvalue=""))))
            number = first + reader.line_num
    return rows, columns, rejected


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 as Excel writes "Unicode text"."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _separator(header: str, wanted: set[str]) -> str:
    """The separator that yields the wanted columns, or else the most columns."""

    def columns(separator: str) -> list[str]:
        return [stripped(each) for each in next(csv.reader([header], delimiter=separator), [])]

    return max(SEPARATORS, key=lambda each: (len(wanted & set(columns(each))), len(columns(each))))


def _parquet_rows(path: Path) -> tuple[list[Row], list[str], dict[str, str]]:
    import pandas

    frame = pandas.read_parquet(path, dtype_backend="numpy_nullable")
    frame = frame.reset_index() if any(frame.index.names) else frame
    frame.columns = [stripped(str(each)) for each in frame.columns]

    def text(value: object) -> str | None:
        if not pandas.api.types.is_scalar(value) or isinstance(value, bytes):
            return None
        if pandas.isna(value):
            return ""
        return str(int(value)) if isinstance(value, float | np.floating) and value.is_integer() else str(value)

    columns = list(frame.columns)
    rows = [dict(zip(columns, map(text, values), strict=True)) for values in frame.itertuples(index=False, name=None)]
    return list(enumerate(rows, 2)), columns, {}
