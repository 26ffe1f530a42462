"""What results come from: the code that shapes them, the commit, and the installed packages."""

import ast
import hashlib
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
STORY = "thaw.runs.train"  # shapes every number, and imports all other code that does
# Modules that name, locate, record or report results but cannot change them: what they decide is hashed by content.
NOT_SHAPING = (
    "thaw.cli", "thaw.config", "thaw.plots", "thaw.tracking", "thaw.progress", "thaw.errors", "thaw.workspace",
    "thaw.files", "thaw.locks", "thaw.downloads", "thaw.archives", "thaw.normalization", "thaw.durations",
    "thaw.statistics", "thaw.provenance", "thaw.data.sources", "thaw.data.checks", "thaw.data.listing",
    "thaw.data.fingerprints", "thaw.runs.record", "thaw.runs.results", "thaw.runs.progress", "thaw.runs.outcome",
    "thaw.runs.context", "thaw.runs.signature",
)  # fmt: skip
PACKAGES = ("tensorflow", "keras", "numpy", "pillow")  # whose versions may change a bit


@cache
def code() -> str:
    """SHA-256 of the code that shapes results, the same under every version of Python."""
    return hashlib.sha256(
        "\n".join(meaning(_path(name).read_text()) for name in shaping_modules()).encode()
    ).hexdigest()


def shaping_modules() -> list[str]:
    """The modules that shape results: whatever `thaw.runs.train` imports, directly or not, but for `NOT_SHAPING`."""
    found: set[str] = set()
    pending = [STORY]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += [each for each in _imports(name) if not _is_excluded(each)]
    return sorted(found)


def _imports(name: str) -> Iterator[str]:
    """The modules of this package that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(_path(name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "thaw":
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if _path(submodule).is_file() else node.module


def _path(name: str) -> Path:
    below = SOURCE.joinpath(*name.split(".")[1:])
    return below / "__init__.py" if below.is_dir() else below.with_suffix(".py")


def _is_excluded(name: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in NOT_SHAPING)


def meaning(source: str) -> str:
    """A canonical form of Python code: comments, docstrings and formatting do not change it.

    `ast.dump` and `ast.unparse` differ between versions of Python; this does not.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and _is_text(body[0].value):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return _canonical(tree)


def _canonical(node: object) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (  # later versions of Python add fields that are empty here
        f"{name}={_canonical(value)}"
        for name, value in ast.iter_fields(node)
        if value is not None and value != [] and name not in ("ctx", "kind", "type_comment")
    )
    return f"{type(node).__name__}({','.join(fields)})"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def versions() -> list[str]:
    """The versions of the packages that shape results."""
    return [version(name) for name in PACKAGES]


def git_state(root: Path) -> tuple[str, bool] | None:
    """The commit of the code, and whether the tree is clean; None outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit, not changes.strip()


@cache
def packages() -> list[tuple[str, str]]:
    """Every installed distribution and its version, by name."""
    return sorted({each.metadata["Name"].lower(): each.version for each in distributions()}.items())
