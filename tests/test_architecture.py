"""Rules of the house that import-linter does not check."""

import ast
from pathlib import Path

import pytest

from thaw.config.schema import Config

SOURCE = Path(__file__).resolve().parent.parent / "src" / "thaw"
FILES = sorted(SOURCE.rglob("*.py"))
BELOW = [path for path in FILES if path.parent.name != "cli"]


def functions(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]


def test_three_functions_at_most_take_a_whole_configuration():
    takers = {
        f"{path.relative_to(SOURCE)}:{function.name}"
        for path in FILES
        for function in functions(path)
        for argument in [*function.args.args, *function.args.kwonlyargs]
        if argument.annotation and Config.__name__ in ast.unparse(argument.annotation).replace("DictConfig", "")
    }
    assert takers == {"runs/train.py:train", "runs/signature.py:relevant", "runs/record.py:describe_run"}


OF_A_PROCESS = {"sys.argv", "sys.exit", "signal.signal", "os.environ.update", "os.environ.setdefault", "os.chdir"}
OWN_PROCESS = {("sweeps/engines/local.py", "_serve"), ("sweeps/engines/ray.py", "_call")}  # started by the engine


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(SOURCE)))
def test_below_the_command_line_nothing_prints_exits_or_changes_the_process(path):
    name, found = path.relative_to(SOURCE).as_posix(), []
    own = [function for function in functions(path) if (name, function.name) in OWN_PROCESS]
    allowed = {id(node) for function in own for node in ast.walk(function)}
    for node in ast.walk(ast.parse(path.read_text())) if not own else []:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", *OF_A_PROCESS}:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in OF_A_PROCESS:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Assign) and any(ast.unparse(each).startswith("os.environ[") for each in node.targets):
            found.append(ast.unparse(node))
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            found.append("main")
    assert not found
    assert not own or allowed


def test_one_module_knows_keras_private_attributes():
    private = ("_inbound_nodes", "_keras_history", "_flatten_layers", "_trainable_variables")
    users = {path.name for path in FILES for word in private if word in path.read_text()}
    assert users == {"graph.py"}


def test_one_module_knows_the_folders_of_the_store():
    folders = {"runs", "sweeps", "stages", "activations", "launches", "datasets", "artifacts", "mlflow.db"}
    joined = {
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        and isinstance(node.right, ast.Constant) and node.right.value in folders
    }  # fmt: skip
    assert joined <= {"workspace.py", "archive.py"}  # Keras' cache has `datasets` as well


def test_every_room_says_what_it_is():
    for path in SOURCE.rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(docstring) > 60, path
