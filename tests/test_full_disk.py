"""Disks that fill up while a run trains: a sentence, nothing half there is believed, and the same run afterwards."""

import subprocess
import sys

import pytest
from conftest import ROOT, TINY

DISK = """
mount -t tmpfs -o {0} tmpfs "$1" && cd "$2" && shift 2 || exit 99
"$@"; echo "status $?"
mount -o remount,size=60m,nr_inodes=1000 tmpfs "$PWD"
"$@"; echo "status $?"
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["size=1500k", "size=3m", "size=5m", "nr_inodes=45"])
def test_a_full_disk_is_one_sentence_and_with_more_room_the_run_is_as_any_other(tmp_path, limit):
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    own = [each for each in TINY if "images_per_class" not in each]
    train = [sys.executable, ROOT / "train.py", *own, f"store={tmp_path}/s", "unfreeze=3", "tracking.model=true"]
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", DISK.format(limit), "sh", tmp_path, tmp_path, *train],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    full, done, _ = ran.stdout.split("status ")
    assert "The disk is full; free some space and run the same command again" in ran.stderr
    assert done.startswith("1\n"), ran.stdout
    assert ran.stdout.endswith("status 0\n"), ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    assert "validation" in done
