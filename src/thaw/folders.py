"""Images in folders: one folder for each class, perhaps below one for each split."""

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from thaw.decoding import ENDINGS, UNSUPPORTED, is_drawing, is_picture
from thaw.errors import ThawError
from thaw.listing import SPLITS, Listing, class_trouble
from thaw.names import plain, trimmed

ANNOTATIONS = {".txt", ".xml", ".json", ".csv", ".yaml", ".yml", ".md"}  # what published sets have beside images
IGNORED = {"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "__macosx",
           "@eadir", "$recycle.bin", "system volume information"}  # beside all that begins with a dot  # fmt: skip

SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")  # of the kernel, without an end


def is_system(folder: Path) -> bool:
    """Whether a folder belongs to the kernel, but for the one in memory."""
    real = folder.resolve()
    return any(map(real.is_relative_to, SYSTEM_FOLDERS)) and not real.is_relative_to("/dev/shm")


def listed(root: Path, name: str, layout: str = "auto") -> Listing:
    """The images below a folder that has a folder for each class, perhaps below one for each split.

    Folders of splits are found in any case (`Train/`, `TEST/`) and one level down (`images/train/`).

    Args:
        root: the folder.
        name: of the dataset.
        layout: `classes`: every folder in `root` is a class, whatever it is called.
    """
    found = Listing(name)
    place, parts = (root, {}) if layout == "classes" else _split_folders(root)
    if several := next((each for each in parts.values() if len(each) > 1), None):
        named = ", ".join(each.name for each in several)
        raise ThawError(f"{place} has several folders for one split ({named}); leave one of them")
    if parts and "train" not in parts:
        named = ", ".join(sorted(each.name for (each,) in parts.values()))
        raise ThawError(
            f"{place} has {named} but no train; name the folder of training images train, or give "
            "dataset.layout=classes if these are classes"
        )
    if parts:
        found.given = set(parts)
        _refuse_strays(found, root, place, {each.name for (each,) in parts.values()})
        if place != root:
            _refuse_strays(found, root, root, {place.name})
    for split, (folder,) in (parts or {"": [root]}).items():
        folders = inside(folder)
        _refuse_strays(found, root, folder, {each.name for each in folders})
        for each in folders:
            if trouble := class_trouble(each.name):
                found.refused[plain(each.relative_to(root).as_posix())] = trouble
                continue
            found.class_names.add(trimmed(each.name))
            for path in sorted(files(each, root, found.refused)):
                found.add(path.relative_to(root).as_posix(), each.name, split, path)
    _refuse_equal_names(found)
    return found


def _split_folders(root: Path) -> tuple[Path, dict[str, list[Path]]]:
    """Where the folders of the splits lie, in `root` or in one folder of it, and which they are; none if nowhere."""
    if parts := _splits_in(root):
        return root, parts
    nested = [(each, parts) for each in inside(root) if "train" in (parts := _splits_in(each))]
    return nested[0] if len(nested) == 1 else (root, {})


def _splits_in(place: Path) -> dict[str, list[Path]]:
    """The folders in `place` that are named like splits and hold classes, by split; one of images alone is a class."""
    parts = defaultdict(list)
    for each in inside(place):
        if each.name.lower() in SPLITS and (_is_empty(each) or inside(each)):
            parts[SPLITS[each.name.lower()]].append(each)
    return dict(parts)


def _refuse_strays(found: Listing, root: Path, place: Path, expected: set[str]) -> None:
    """Name what may be images beside the folders that are expected there; annotations are left alone."""
    for each in sorted(place.iterdir()):
        if each.name in expected or _ignored(each.name):
            continue
        below = plain(each.relative_to(root).as_posix())
        if os.path.isdir(each):
            if any(file.suffix.lower() not in ANNOTATIONS for file in files(each, root, {})):
                found.refused[below] = f"is none of {', '.join(sorted(expected))}"
        elif not os.path.exists(each):
            found.refused[below] = "is a link to nothing"
        elif (each.suffix.lower() in ENDINGS | UNSUPPORTED or is_picture(each)) and not is_drawing(each):
            found.refused[below] = "lies in no class"


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


def _is_empty(folder: Path) -> bool:
    return not any(not _ignored(each.name) for each in folder.iterdir())


def files(folder: Path, root: Path, refused: dict[str, str]) -> Iterator[Path]:
    """Every file below `folder` that is not to be ignored; links are followed once, and never back to the root.

    Args:
        folder: where to look.
        root: what names in `refused` start from.
        refused: takes folders that cannot be read, and why.
    """
    seen = {os.path.realpath(root), os.path.realpath(folder.parent), *SYSTEM_FOLDERS}
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
