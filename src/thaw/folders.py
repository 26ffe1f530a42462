"""Images in folders: one folder for each class, perhaps below one for each split."""

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from thaw.decoding import ENDINGS
from thaw.errors import ThawError
from thaw.listing import SPLITS, Listing, class_trouble, plain

IGNORED = {"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "__macosx",
           "@eadir", "$recycle.bin", "system volume information"}  # beside all that begins with a dot  # fmt: skip


def listed(root: Path, name: str) -> Listing:
    """The images below a folder that has a folder for each class, perhaps below one for each split."""
    found, parts = Listing(name), defaultdict(list)
    for each in inside(root):
        if each.name.lower() in SPLITS:
            parts[SPLITS[each.name.lower()]].append(each)
    if not {"train", "test"} & set(parts):
        if divided := next((each for each in parts["validation"] if inside(each) and not _images(each)), None):
            raise ThawError(
                f"{root} has a folder {divided.name} of classes, but neither train nor test; name those so, or move it"
            )
        parts = {"": [root]}
    elif absent := {"train", "test"} - set(parts):
        raise ThawError(
            f"{root} has no folder {absent.pop()}; with train/ there must be test/, and the other way round"
        )
    elif several := next((each for each in parts.values() if len(each) > 1), None):
        named = ", ".join(each.name for each in several)
        raise ThawError(f"{root} has several folders for one split ({named}); leave one of them")
    else:
        found.given = set(parts)
        _refuse_strays(found, root, root, {each.name for (each,) in parts.values()})
    for split, (place,) in parts.items():
        folders = inside(place)
        _refuse_strays(found, root, place, {each.name for each in folders})
        for each in folders:
            if trouble := class_trouble(each.name):
                found.refused[plain(each.relative_to(root).as_posix())] = trouble
                continue
            found.class_names.add(plain(each.name).strip())
            for path in sorted(files(each, root, found.refused)):
                found.add(path.relative_to(root).as_posix(), each.name, split, path)
    _refuse_equal_names(found)
    return found


def _refuse_strays(found: Listing, root: Path, place: Path, expected: set[str]) -> None:
    """Name what looks like images beside the folders that are expected there, so that nothing vanishes in silence."""
    for each in sorted(place.iterdir()):
        if each.name in expected or _ignored(each.name):
            continue
        below = plain(each.relative_to(root).as_posix())
        if os.path.isdir(each):
            found.refused[below] = f"is none of {', '.join(sorted(expected))}"
        elif each.suffix.lower() in ENDINGS or not os.path.exists(each):
            found.refused[below] = "lies in no class" if os.path.exists(each) else "is a link to nothing"


def _refuse_equal_names(found: Listing) -> None:
    """Of files whose names differ in nothing that is seen, take none but the first."""
    seen: set[str] = set()
    keep = []
    for index, name in enumerate(found.names):
        if name in seen:
            found.refused[f"{name} (a second file of that name)"] = "has a name that differs in what is not seen"
        else:
            keep.append(index)
        seen.add(name)
    found.names, found.classes, found.splits, found.images = (
        [each[index] for index in keep] for each in (found.names, found.classes, found.splits, found.images)
    )


def inside(root: Path) -> list[Path]:
    """The folders in a folder that are not to be ignored.

    Raises:
        ThawError: it cannot be read.
    """
    try:
        return sorted(each for each in root.iterdir() if os.path.isdir(each) and not _ignored(each.name))
    except OSError as error:
        raise ThawError(f"{root} cannot be read ({error.strerror}); give a folder that can") from error


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _images(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.suffix.lower() in ENDINGS]


def files(folder: Path, root: Path, refused: dict[str, str]) -> Iterator[Path]:
    """Every file below `folder` that is not to be ignored; links are followed once, and never back to the root.

    Args:
        folder: where to look.
        root: what names in `refused` start from.
        refused: takes folders that cannot be read, and why.
    """
    seen = {os.path.realpath(root), os.path.realpath(folder.parent)}
    folders, linked = [folder], deque[Path]()
    while folders or linked:
        here = folders.pop() if folders else linked.popleft()  # what really lies there comes before links to it
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            refused[plain(here.relative_to(root).as_posix())] = f"cannot be read ({error.strerror})"
            continue
        for entry in entries:
            if _ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(here / entry.name)
            elif entry.is_symlink() and os.path.isdir(here / entry.name):
                linked.append(here / entry.name)
            else:
                yield here / entry.name
