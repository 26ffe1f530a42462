"""A store that several users share: what one makes, the others of the group may use; a user needs no name."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

GROUP, ONE, OTHER = 54320, 54321, 54322  # numbers without names, as in a container


@pytest.fixture
def train(tmp_path):
    """Train as some user of the group, in a store of that group."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("needs root, to be other users")
    store = tmp_path / "mlruns"
    store.mkdir()
    shutil.chown(store, group=GROUP)
    store.chmod(0o2770)
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # Python may lie in root's own folder

    def run(user, *overrides):
        being = ["setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", *reading]
        environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
        words = [*being, sys.executable, ROOT / "train.py", "-m", *TINY, f"store={store}", *overrides]
        return subprocess.run(
            words, umask=0o002, cwd="/", env=environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    run.store = store
    return run


@pytest.mark.slow
def test_what_one_user_began_another_goes_on_with(train, pictures):
    root = pictures({"cat": 6, "dog": 6})
    own = ["dataset=folder", f"dataset.path={root}", "weights=random"]
    first = train(ONE, *own, "unfreeze=0,3")
    assert first.returncode == 0, first.stdout + first.stderr
    for path in train.store.rglob("*"):
        assert path.stat().st_gid == GROUP, path
        assert path.stat().st_mode & 0o060 == 0o060, path
    second = train(OTHER, *own, "unfreeze=0,3,6")
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("finished before") == 2
    assert "head reused" in second.stdout
    assert "Traceback" not in second.stdout + second.stderr
