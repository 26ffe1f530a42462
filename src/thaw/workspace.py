"""The store: the folder in which runs leave their files, with a mark that says so. What bears no mark is not touched.

`docs/design.md` says what lies in its folders.
"""

import shutil
from pathlib import Path

from thaw.errors import ThawError

MARK = "thaw-store.txt"
ABOUT = "Thaw keeps runs here (store=...). `make prune` removes what no run needs; without this file it refuses to.\n"
FOLDERS = ("runs", "sweeps", "stages", "activations", "datasets", "launches")


def opened(root: Path) -> Path:
    """A store to write to, made if there is none.

    Raises:
        ThawError: the folder holds something else under a name that a store uses.
    """
    if not is_store(root):
        taken = [name for name in FOLDERS if (root / name).exists()]
        if taken:
            raise ThawError(f"store={root} has a {taken[0]}/ that Thaw did not make; give an empty folder or a store")
        root.mkdir(parents=True, exist_ok=True)
    if not (root / MARK).exists():
        (root / MARK).write_text(ABOUT, encoding="utf-8")
    return root


def existing(root: Path) -> Path:
    """A store to read from or to tidy up.

    Raises:
        ThawError: the folder is none.
    """
    if is_store(root):
        return root
    if root.is_dir() and any(not each.name.startswith(".") for each in root.iterdir()):
        raise ThawError(f"{root} is no store of Thaw, as it has no {MARK}; give the folder that runs were trained with")
    raise ThawError(f"Nothing is recorded in {root} yet; train something first: python train.py")


def place(given: str) -> Path:
    """What is given with `--store`, where a shell leaves a ~ as it is."""
    return Path(given).expanduser()


def is_store(root: Path) -> bool:
    """Whether Thaw made the folder; stores of before have no mark, but journals."""
    return (root / MARK).is_file() or any(root.glob("runs/*/journal.jsonl")) or any(root.glob("sweeps/*/journal.jsonl"))


def runs(root: Path) -> list[Path]:
    """The folders of all runs; what else lies beside them is passed over."""
    return [each for each in sorted(root.glob("runs/*")) if each.is_dir()]


def journals(root: Path) -> list[Path]:
    """The folders of all sweeps, then of all runs."""
    return [*(each for each in sorted(root.glob("sweeps/*")) if each.is_dir()), *runs(root)]


def launch(root: Path, recorded: str) -> Path:
    """The folder of a command, from what a journal says; wherever the store lay then, it is in this one."""
    return root / "launches" / Path(recorded).name


def remove_launch(folder: Path) -> None:
    """Remove the folder of a command; nothing that does not lie among the launches of a store."""
    if folder.parent.name == "launches" and is_store(folder.parent.parent) and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
