"""`dataset=folder`: one folder per class, directly or below one folder per split."""

import os
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from thaw.config import schema
from thaw.data.listing import SPLITS, Listing, class_problem
from thaw.data.sources.paths import SYSTEM_FOLDERS, existing_path
from thaw.drawings import is_drawing
from thaw.errors import ThawError
from thaw.modalities.images.decode import ENDINGS, UNSUPPORTED, is_picture
from thaw.normalization import normalized, stripped

ANNOTATIONS = {".txt", ".xml", ".json", ".csv", ".yaml", ".yml", ".md"}  # found beside the images of published datasets
IGNORED = {"thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "__macosx",
           "@eadir", "$recycle.bin", "system volume information"}  # beside all that begins with a dot  # fmt: skip


def listing(dataset: schema.Dataset, store: Path) -> Listing:
    """One folder per class, below `train/`, `test/` and perhaps `val/`, or directly below the path."""
    root = existing_path("dataset.path", dataset.path)
    if not os.path.isdir(root):
        raise ThawError(f"dataset.path={dataset.path} is not a folder; give one that has a folder of images per class")
    return list_folder(root, dataset.name or root.resolve().name, dataset.layout)


def list_folder(root: Path, name: str, layout: str = "auto") -> Listing:
    """List a folder with one folder per class, perhaps below one folder per split.

    Folders of splits are found in any case (`Train/`, `TEST/`) and one level down (`images/train/`).

    Args:
        root: the folder.
        name: of the dataset.
        layout: `classes`: every folder in `root` is a class, whatever its name.
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
        found.predefined_splits = set(parts)
        _reject_strays(found, root, place, {each.name for (each,) in parts.values()})
        if place != root:
            _reject_strays(found, root, root, {place.name})
    for split, (folder,) in (parts or {"": [root]}).items():
        folders = inside(folder)
        _reject_strays(found, root, folder, {each.name for each in folders})
        for each in folders:
            if problem := class_problem(each.name):
                found.rejected[normalized(each.relative_to(root).as_posix())] = problem
                continue
            found.class_names.add(stripped(each.name))
            for path in sorted(files(each, root, found.rejected)):
                found.add(path.relative_to(root).as_posix(), each.name, split, path)
    _reject_equal_names(found)
    return found


def _split_folders(root: Path) -> tuple[Path, dict[str, list[Path]]]:
    """The folder that has the folders of the splits, `root` or one inside it, and these by split, if any."""
    if parts := _splits_in(root):
        return root, parts
    nested = [(each, parts) for each in inside(root) if "train" in (parts := _splits_in(each))]
    return nested[0] if len(nested) == 1 else (root, {})


def _splits_in(place: Path) -> dict[str, list[Path]]:
    """The folders in `place` that are named like splits and contain folders, by split; one with images is a class."""
    parts = defaultdict(list)
    for each in inside(place):
        if each.name.lower() in SPLITS and (_is_empty(each) or inside(each)):
            parts[SPLITS[each.name.lower()]].append(each)
    return dict(parts)


def _reject_strays(found: Listing, root: Path, place: Path, expected: set[str]) -> None:
    """Reject what may be images outside the expected folders; annotations are ignored."""
    for each in sorted(place.iterdir()):
        if each.name in expected or _is_ignored(each.name):
            continue
        below = normalized(each.relative_to(root).as_posix())
        if os.path.isdir(each):
            if any(file.suffix.lower() not in ANNOTATIONS for file in files(each, root, {})):
                found.rejected[below] = f"is none of {', '.join(sorted(expected))}"
        elif not os.path.exists(each):
            found.rejected[below] = "is a broken link"
        elif (each.suffix.lower() in ENDINGS | UNSUPPORTED or is_picture(each)) and not is_drawing(each):
            found.rejected[below] = "belongs to no class"


def _reject_equal_names(found: Listing) -> None:
    """Keep the first of files whose normalized names are equal."""
    seen: set[str] = set()
    keep = []
    for index, name in enumerate(found.names):
        if name in seen:
            found.rejected[f"{name} (a second file of that name)"] = (
                "has a name that only differs in invisible characters"
            )
        else:
            keep.append(index)
        seen.add(name)
    found.names = [found.names[index] for index in keep]
    found.classes = [found.classes[index] for index in keep]
    found.splits = [found.splits[index] for index in keep]
    found.images = [found.images[index] for index in keep]


def inside(root: Path) -> list[Path]:
    """The folders in a folder, without ignored ones.

    Raises:
        ThawError: it cannot be read.
    """
    try:
        return sorted(each for each in root.iterdir() if os.path.isdir(each) and not _is_ignored(each.name))
    except OSError as error:
        raise ThawError(f"{root} cannot be read ({error.strerror}); give a folder that can") from error


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED


def _is_empty(folder: Path) -> bool:
    return not any(not _is_ignored(each.name) for each in folder.iterdir())


def files(folder: Path, root: Path, rejected: dict[str, str]) -> Iterator[Path]:
    """Every file below `folder`, without ignored ones; links are followed once, and never back to the root.

    Args:
        folder: where to look.
        root: names in `rejected` are relative to it.
        rejected: receives unreadable folders, and why.
    """
    seen = {os.path.realpath(root), os.path.realpath(folder.parent), *SYSTEM_FOLDERS}
    folders, linked = [folder], deque[Path]()
    while folders or linked:
        here = folders.pop() if folders else linked.popleft()  # real folders before links to them
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            rejected[normalized(here.relative_to(root).as_posix())] = f"cannot be read ({error.strerror})"
            continue
        for entry in entries:
            if _is_ignored(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(here / entry.name)
            elif entry.is_symlink() and os.path.isdir(here / entry.name):
                linked.append(here / entry.name)
            else:
                yield here / entry.name
