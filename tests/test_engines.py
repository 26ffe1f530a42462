"""What trains several runs at once, here with calls that train nothing; `test_services.py` has SLURM and Ray."""

import os
import signal
import threading
import time

import pytest

from thaw import runtime
from thaw.sweeps.engines import available, local


def come_to(value):
    return lambda: {"came to": value, "process": os.getpid()}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("no such thing")


def wait_for_ever(path):
    def call():
        path.with_suffix(f".{os.getpid()}").touch()
        time.sleep(600)

    return call


def test_every_call_ends_once(tmp_path):
    ends = dict(local.run([come_to(number) for number in range(5)], tmp_path, n_jobs=2))
    assert {number: end["came to"] for number, end in ends.items()} == {number: number for number in range(5)}
    assert len({end["process"] for end in ends.values()}) == 2
    assert os.getpid() not in {end["process"] for end in ends.values()}


def test_a_process_that_dies_takes_no_other_with_it(tmp_path):
    calls = [come_to(0), die, come_to(2), die, come_to(4)]
    ends = dict(local.run(calls, tmp_path, n_jobs=2))
    assert {number for number, end in ends.items() if isinstance(end, dict)} == {0, 2, 4}
    assert str(ends[1]) == str(ends[3]) == "its process died (SIGKILL)"


def test_an_exception_is_handed_back_and_its_process_goes_on(tmp_path):
    ends = dict(local.run([fail, come_to(1)], tmp_path, n_jobs=1))
    assert str(ends[0]) == "ValueError: no such thing"
    assert ends[1]["came to"] == 1


def test_what_runs_is_stopped_when_it_is_given_up(tmp_path):
    at_work = local.run([wait_for_ever(tmp_path / "call"), wait_for_ever(tmp_path / "call"), die], tmp_path, 3)
    number, _ = next(at_work)
    assert number == 2
    while len(list(tmp_path.glob("call.*"))) < 2:
        time.sleep(0.05)
    at_work.close()
    for file in tmp_path.glob("call.*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.suffix[1:]), 0)


def test_each_process_has_a_gpu_in_turn(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    meet = str(tmp_path)

    def card():
        open(os.path.join(meet, str(os.getpid())), "w").close()
        while len(os.listdir(meet)) < 3:  # so that all three processes are at work
            time.sleep(0.02)
        return {"card": os.environ["CUDA_VISIBLE_DEVICES"]}

    ends = local.run([card] * 3, tmp_path, n_jobs=3)
    assert sorted(end["card"] for _, end in ends) == ["3", "3", "5"]


def test_gpus_are_counted_without_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert runtime.gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho 'GPU 1: B (UUID: GPU-b)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert runtime.gpus() == ["0", "1"]


def test_a_card_that_tensorflow_does_not_see_is_pointed_out(tmp_path, monkeypatch):
    assert runtime.start(2).description == "CPU, 2 threads"
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "an NVIDIA GPU that TensorFlow does not see: pip install -e '.[cuda]'" in runtime.start(2).description


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_whose_extra_is_missing_says_which(command, monkeypatch, tmp_path, engine, package):
    monkeypatch.setattr(available, "find_spec", lambda name: None)
    status, _, err = command("-m", "unfreeze=0,3", f"hydra/launcher={engine}")
    assert status == 1
    assert f"hydra/launcher={engine} needs {package}, which is not installed; run pip install -e '.[{engine}]'" in err
    assert "Traceback" not in err
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_slurm_is_asked_for_where_jobs_are_submitted(command, monkeypatch):
    monkeypatch.setattr(available, "find_spec", lambda name: name)
    monkeypatch.setattr(available.shutil, "which", lambda name: None)
    status, _, err = command("-m", "unfreeze=0,3", "hydra/launcher=slurm")
    assert status == 1
    assert "hydra/launcher=slurm: sbatch was not found; run the command on a host that submits jobs" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["hydra/launcher=local", "hydra.launcher.n_jobs=abc"], "hydra.launcher.n_jobs=abc is not allowed"),
        (["hydra/launcher=local", "hydra.launcher.n_jobs=0"], "greater than or equal to 1"),
        (["hydra/launcher=local", "hydra.launcher.n_job=3"], "did you mean hydra.launcher.n_jobs?"),
        (["hydra.launcher.n_jobs=3"], "hydra.launcher.n_jobs belongs to hydra/launcher=local; give that as well"),
        (["hydra/launcher=slurm", "hydra.launcher.partition=gpu"], "did you mean hydra.launcher.slurm_partition?"),
        (["hydra/launcher=slurm", "hydra.launcher.timeout_min=4h"], "hydra.launcher.timeout_min=4h is not allowed"),
        (["hydra/launcher=slurm", "hydra.launcher.slurm_setup=module"], "should be a valid list"),
        (["hydra/launcher=ray", "hydra.launcher.num_cpus=null"], "hydra.launcher.num_cpus=None is not allowed"),
        (["hydra/launcher=ray", "hydra.launcher.address=head"], "hydra.launcher.address=head is not allowed"),
        (["hydra/launcher=ray", "hydra.launcher.address=127.0.0.1:1"], "127.0.0.1:1: nothing listens there"),
        (["hydra.launcher=slurm"], "choose a launcher with a slash: hydra/launcher=local"),
        (["launcher=slurm"], "did you mean hydra/launcher?"),
    ],
)
def test_settings_that_cannot_be_right_are_one_sentence(command, monkeypatch, tmp_path, given, said):
    monkeypatch.setattr(available.shutil, "which", lambda name: name)
    status, _, err = command("-m", "unfreeze=0,3", *given)
    assert status == 1
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_a_launcher_needs_a_sweep(command):
    status, _, err = command("unfreeze=0", "hydra/launcher=local")
    assert status == 1
    assert err.strip() == "hydra/launcher=local requires -m (multirun), even for one run"


def test_what_would_run_is_shown_for_one_run(command):
    status, _, err = command("--cfg", "job", "-m", "unfreeze=0,3")
    assert status == 1
    assert "leave -m out" in err


def test_a_run_of_a_cluster_has_the_cores_that_it_was_given():
    from thaw import runtime

    assert runtime.share_of_cores({"engine": "slurm", "cpus_per_task": 6}) == 6
    assert runtime.share_of_cores({"engine": "ray", "num_cpus": 3}) == 3
    assert runtime.share_of_cores({"engine": "local", "n_jobs": -1}) == 1
    assert runtime.share_of_cores({"engine": "local", "n_jobs": 10**6}) == 1


def test_no_thread_is_left(tmp_path):
    before = threading.active_count()
    list(local.run([come_to(0)], tmp_path, n_jobs=1))
    assert threading.active_count() == before
