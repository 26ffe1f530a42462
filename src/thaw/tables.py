"""Images that a table names, with their labels and perhaps their splits."""

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

from thaw import config
from thaw.config import nearest
from thaw.errors import ThawError
from thaw.listing import SPLITS, Listing, class_trouble, file_trouble
from thaw.names import plain, trimmed

SEP = re.compile(r"sep=.\s*$", re.IGNORECASE)  # a first line of Excel's own
SEPARATORS = (",", ";", "\t", "|")
Row = tuple[int, dict[str, str | None]]  # its number, and a text by column; None for a cell that is no text


def tabled(path: Path, base: Path, name: str, columns: config.Columns, divided: bool) -> Listing:
    """The images that a table names.

    Args:
        path: of the table.
        base: the folder that its paths start from.
        name: of the dataset.
        columns: what they are called.
        divided: whether the splits that it may name count.
    """
    rows, known, refused = _rows(path, {columns.image, columns.label, columns.split})
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
    found = Listing(name, refused=refused)
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
            same[plain(below)].append((where, below, trimmed(label), SPLITS.get(split, "")))
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


def _there(known: dict[Path, dict[str, list[str]]], base: Path, name: str) -> Path:
    """The file of that name, or the one whose name reads the same, as those in a manifest do.

    Args:
        known: keeps the names in folders that were looked through.
        base: the folder to start from.
        name: of the file.
    """
    if "\0" in name or os.path.lexists(base / name):
        return base / name
    return next(_alike(known, base, Path(name).parts), base / name)


def _alike(known: dict[Path, dict[str, list[str]]], place: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """What is there below a folder under names that read as `parts` do; several folders may."""
    if not parts:
        yield place
        return
    if place not in known:
        known[place] = defaultdict(list)
        with contextlib.suppress(OSError):
            for each in sorted(os.listdir(place)):
                known[place][plain(each)].append(each)
    for each in known[place].get(plain(parts[0]), [".."] * (parts[0] == "..")):
        yield from _alike(known, place / each, parts[1:])


def _rows(path: Path, wanted: set[str]) -> tuple[list[Row], list[str], dict[str, str]]:
    """The rows of a table, its columns, and the rejected rows: those with more fields than columns."""
    try:
        rows, columns, refused = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _text_rows(path, wanted)
    except UnicodeDecodeError as error:
        raise ThawError(f"dataset.path={path} cannot be read as a table: it is not UTF-8; save it as UTF-8") from error
    except Exception as error:  # of a file that only ends like a table
        raise ThawError(f"dataset.path={path} cannot be read as a table ({error}); mend it") from error
    if twice := sorted(name for name, count in Counter(columns).items() if count > 1 and name in wanted):
        raise ThawError(f"dataset.path={path} has several columns {twice[0]}; rename or remove one")
    return [(number, row) for number, row in rows if any(row.values())], columns, refused


def _text_rows(path: Path, wanted: set[str]) -> tuple[list[Row], list[str], dict[str, str]]:
    """Rows of a text file, numbered by line. No column becomes an index, however many fields a row has."""
    with path.open(newline="", encoding=_encoding(path)) as file:
        lines = enumerate(file, 1)
        first, header = next(((n, line) for n, line in lines if line.strip() and not SEP.match(line)), (1, ""))
        file.seek(0)
        for _ in range(first - 1):
            file.readline()
        reader = csv.reader(file, delimiter=_separator(header, wanted), strict=True)
        columns = [trimmed(each) for each in next(reader, [])]
        rows, refused, number = [], {}, first + reader.line_num
        for fields in reader:
            if any(each.strip() for each in fields[len(columns) :]):
                refused[f"row {number}"] = f"has {len(fields)} fields, expected {len(columns)}"
            else:
                rows.append((number, dict(zip_longest(columns, fields[: len(columns)], fillvalue=""))))
            number = first + reader.line_num
    return rows, columns, refused


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 as Excel writes "Unicode text"."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _separator(header: str, wanted: set[str]) -> str:
    """The separator that yields the wanted columns, or else the most columns."""

    def columns(separator: str) -> list[str]:
        return [trimmed(each) for each in next(csv.reader([header], delimiter=separator), [])]

    return max(SEPARATORS, key=lambda each: (len(wanted & set(columns(each))), len(columns(each))))


def _parquet_rows(path: Path) -> tuple[list[Row], list[str], dict[str, str]]:
    import pandas

    frame = pandas.read_parquet(path, dtype_backend="numpy_nullable")
    frame = frame.reset_index() if any(frame.index.names) else frame
    frame.columns = [trimmed(str(each)) for each in frame.columns]

    def text(value: object) -> str | None:
        if not pandas.api.types.is_scalar(value) or isinstance(value, bytes):
            return None
        if pandas.isna(value):
            return ""
        return str(int(value)) if isinstance(value, float | np.floating) and value.is_integer() else str(value)

    columns = list(frame.columns)
    rows = [dict(zip(columns, map(text, values), strict=True)) for values in frame.itertuples(index=False, name=None)]
    return list(enumerate(rows, 2)), columns, {}
