"""Against real services on this machine: SLURM, Ray, PostgreSQL, MLflow's server, an S3-compatible store.

Each is started by a fixture and stopped by it. `make test-services` runs them.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import requests
from conftest import ROOT, TINY
from mlflow import MlflowClient

pytestmark = pytest.mark.services
SERVICES = Path(os.environ.get("THAW_SERVICES", ROOT.parent / "shared" / "services"))
POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
PASSWORD = "correct horse battery"
SIX = [
    *TINY,
    "unfreeze=0,3,6",
    "fraction=50,100",
    "training.head.epochs=2",
    "training.finetune.epochs=40",
    "threads=1",
]
PATIENCE = 900  # seconds, for a machine that is slow and busy


@contextlib.contextmanager
def process(*command, ready, **settings):
    """A process that runs while the block does; it ends with the block, by its own id."""
    started = subprocess.Popen([str(word) for word in command], **settings)
    try:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert started.poll() is None, f"{command[0]} ended at once"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.2)
        yield started
    finally:
        started.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(20)
        started.kill()
        started.wait()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def train(*arguments, **environment):
    """train.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def trained(*arguments, **environment):
    done = train(*arguments, **environment)
    out, _ = done.communicate(timeout=PATIENCE)
    assert done.returncode == 0, out
    return out


def numbers(store):
    """The metrics of each run by its name, but for those of time."""
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    (parent,) = client.search_runs(["1"], "tags.`thaw.kind` = 'sweep'")
    runs = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.info.status for run in [parent, *runs]} == {"FINISHED"}
    assert parent.data.tags["thaw.command"].startswith("python train.py -m")
    assert all(run.data.tags["thaw.command"].startswith("python train.py ") for run in runs)
    timeless = ("second", "waiting")
    return {
        run.info.run_name: {
            key: [
                point.value for point in sorted(client.get_metric_history(run.info.run_id, key), key=lambda p: p.step)
            ]
            for key in run.data.metrics
            if not any(word in key for word in timeless)
        }
        for run in runs
    }


def at_work(store):
    """The processes that hold the claim on a run in that store, and how many epochs each run's record has."""
    found = {}
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            for file in each.open_files():
                path = Path(file.path)
                if path.name == "lock" and path.parent.parent == store / "runs":
                    journal = path.with_name("journal.jsonl")
                    found[each.pid] = journal.read_text().count('"kind": "metrics"') if journal.exists() else 0
    return found


def wait_for(what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the six runs come to with the basic launcher."""
    store = tmp_path_factory.mktemp("basic")
    trained("-m", *SIX, f"store={store}")
    found = numbers(store)
    assert len(found) == 6
    return found


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """SLURM on one node, with accounting."""
    script = SERVICES / "slurm_one_node.sh"
    programs = all(map(shutil.which, ("slurmctld", "slurmdbd", "mariadbd", "munged")))
    if not (programs and script.exists() and os.getuid() == 0):
        pytest.skip(f"needs slurm-wlm, slurmdbd, mariadb-server, munge, {script} (THAW_SERVICES) and root")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    before = {each.pid for each in psutil.process_iter()}
    try:
        begun = subprocess.run(["bash", str(script), str(folder), "--accounting"], check=False, timeout=300)
        if begun.returncode:
            pytest.skip(f"SLURM does not start on this machine: {script} ended with status {begun.returncode}")
        yield ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=20"]
    finally:
        names = ("slurmctld", "slurmd", "slurmdbd", "mariadbd", "munged")
        own = [each for each in psutil.process_iter(["name"]) if each.pid not in before and each.info["name"] in names]
        for each in own:
            with contextlib.suppress(psutil.Error):
                each.terminate()
        psutil.wait_procs(own, timeout=20)


@pytest.fixture(scope="module")
def ray():
    """A Ray cluster of two nodes with one core each, both on this machine."""
    pytest.importorskip("ray")
    port = free_port()
    ray = Path(sys.executable).with_name("ray")
    common = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    own = ["--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    head = [ray, "start", "--head", f"--port={port}", *own, *common]
    joined = [ray, "start", f"--address=127.0.0.1:{port}", "--node-ip-address=127.0.0.1", *common]

    def nodes():
        ask = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(len(ray.nodes()))"
        told = subprocess.run([sys.executable, "-c", ask, f"127.0.0.1:{port}"], capture_output=True, text=True)
        return told.stdout.strip().endswith("2")

    with process(*head, ready=lambda: listens(port), **quiet), process(*joined, ready=nodes, **quiet):
        yield ["hydra/launcher=ray", f"hydra.launcher.address=127.0.0.1:{port}"]


@pytest.fixture(scope="module")
def local():
    return ["hydra/launcher=local", "hydra.launcher.n_jobs=2"]


@pytest.mark.parametrize("engine", ["local", "slurm", "ray"])
def test_a_worker_that_is_killed_costs_its_run_only(engine, request, expected, tmp_path):
    launcher = request.getfixturevalue(engine)
    plan = ["-m", *SIX, f"store={tmp_path}", *launcher]
    command = train(*plan)
    # The run of a process that has trained some epochs of its second stage dies with it.
    victim = wait_for(lambda: next((pid for pid, epochs in at_work(tmp_path).items() if epochs > 10), None))
    os.kill(victim, signal.SIGKILL)
    out, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1, out
    table = [line for line in out.splitlines() if line.startswith("│")]
    assert sum("FINISHED" in line for line in table) == 5, out
    assert sum("LOST" in line for line in table) == 1, out
    reported = next(
        number for number, line in enumerate(out.splitlines()) if line.startswith("✗ [") and "· lost: " in line
    )
    assert reported < out.splitlines().index("6 runs, best validation accuracy first"), "it is reported when it happens"
    assert "the same command resumes it" in out
    kept = list(tmp_path.glob("launches/*/slurm/*/*.err"))
    assert bool(kept) == (engine == "slurm"), "what its jobs printed, until all are complete"
    trained(*plan)
    assert numbers(tmp_path) == expected
    assert not list(tmp_path.glob("launches/*/slurm"))


@pytest.mark.parametrize("engine", ["local", "slurm", "ray"])
def test_ctrl_c_stops_what_was_started(engine, request, tmp_path):
    launcher = request.getfixturevalue(engine)
    command = train("-m", *SIX, "training.finetune.epochs=5000", f"store={tmp_path}", *launcher)
    wait_for(lambda: any(epochs > 5 for epochs in at_work(tmp_path).values()))
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130, out
    assert "Interrupted;" in out
    wait_for(lambda: not at_work(tmp_path))
    if engine == "slurm":
        wait_for(lambda: not subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout.strip())


@pytest.mark.parametrize("engine", ["local", "slurm", "ray"])
def test_a_run_that_fails_is_told_of_when_it_does(engine, request, tmp_path):
    """There is no VGG99, which is found when the network is built."""
    launcher = request.getfixturevalue(engine)
    slow = ["training.finetune.epochs=3000", "unfreeze=3"]
    command = train("-m", *TINY, *slow, "backbone.name=VGG99,MobileNet", f"store={tmp_path}", "threads=1", *launcher)
    for line in command.stdout:
        if line.startswith("✗ ["):
            break
    assert "backbone.name=VGG99" in line
    assert command.poll() is None, "the other still trains"
    command.send_signal(signal.SIGINT)
    command.communicate(timeout=PATIENCE)


def test_a_job_that_slurm_refuses_is_one_sentence(slurm, tmp_path):
    command = train("-m", *TINY, "unfreeze=0,3", f"store={tmp_path}", *slurm, "hydra.launcher.slurm_partition=nowhere")
    out, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1
    assert "SLURM rejected the job" in out
    assert "nowhere" in out or "partition" in out
    assert "Traceback" not in out
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {run.info.status for run in client.search_runs(["1"])} == {"FAILED"}


def test_what_no_node_of_a_ray_cluster_has_is_told_of(ray, tmp_path):
    command = train("-m", *TINY, "unfreeze=0,3", f"store={tmp_path}", *ray, "hydra.launcher.num_cpus=64")
    for line in command.stdout:
        if "No node" in line:
            break
    assert "No node of the Ray cluster has num_cpus=64; waiting for one" in line
    command.send_signal(signal.SIGINT)
    assert command.wait(PATIENCE) == 130


def test_a_job_that_slurm_queues_again_goes_on(slurm, tmp_path):
    plan = [*TINY, "unfreeze=3", "fraction=50,100", "training.finetune.epochs=400", "threads=1"]
    command = train("-m", *plan, f"store={tmp_path}", *slurm)
    wait_for(lambda: any(epochs > 20 for epochs in at_work(tmp_path).values()))
    told = subprocess.run(["squeue", "-h", "-r", "-o", "%A %T"], capture_output=True, text=True).stdout
    running = next(line.split()[0] for line in told.splitlines() if line.endswith("RUNNING"))
    subprocess.run(["scontrol", "requeue", running], check=True)
    state = ["squeue", "-h", "-j", running, "-t", "PENDING", "-o", "%A"]
    wait_for(lambda: subprocess.run(state, capture_output=True, text=True).stdout.strip())
    subprocess.run(["scontrol", "update", f"JobId={running}", "StartTime=now"], check=True)  # else in two minutes
    out, _ = command.communicate(timeout=PATIENCE)
    assert command.returncode == 0, out
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (parent,) = client.search_runs(["1"], "tags.`thaw.kind` = 'sweep'")
    runs = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(runs) == 2
    for run in runs:
        assert len(client.get_metric_history(run.info.run_id, "val_accuracy")) == 401


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A function that makes an empty database in a PostgreSQL of the tests' own, and tells its address."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL on this machine")
    folder = tmp_path_factory.mktemp("postgres")
    other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to be root
    if other:
        for each in (folder, *folder.parents[:2]):  # pytest's own
            each.chmod(each.stat().st_mode | 0o055)
        shutil.chown(folder, "postgres")
    port, quiet = free_port(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = [*other, POSTGRES / "initdb", "-D", folder / "data", "-U", "thaw", "--auth=trust"]
    subprocess.run(list(map(str, made)), check=True, **quiet)
    served = [*other, POSTGRES / "postgres", "-D", folder / "data", "-p", port, "-k", folder, "-h", "127.0.0.1"]
    with process(*served, ready=lambda: listens(port), **quiet):
        names = (f"record{number}" for number in itertools.count())

        def database():
            name = next(names)
            create = [POSTGRES / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "thaw", name]
            wait_for(lambda: subprocess.run(create, **quiet).returncode == 0)
            return f"postgresql://thaw:no-secret@127.0.0.1:{port}/{name}"

        yield database


@contextlib.contextmanager
def server(database, folder, *words, **environment):
    """`make server` on that database; its address."""
    port = free_port()
    command = [sys.executable, "-m", "thaw.cli.server", "--folder", folder, "--port", port, *words]
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": database, **environment}
    with (
        (folder.parent / "server.log").open("w") as log,
        process(*command, ready=lambda: listens(port), env=environment, stdout=log, stderr=log, cwd=folder.parent),
    ):
        yield f"http://127.0.0.1:{port}"


WRITER = """
import sys
from pathlib import Path

from thaw.tracking import delivery, journal
from thaw.tracking.sender import sending
from thaw.tracking.store import connect

uri, root, number = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
folder = root / "runs" / f"writer-{number}"
folder.mkdir(parents=True)
store = connect(uri, str(root))
with journal.Record(folder, uri=store.name, experiment="eight", name=number, parent=None, tags={}) as record:
    with sending(folder, store):
        record.params({"writer": number})
        for epoch in range(50):
            record.metrics({"loss": 1 / (epoch + 1), "accuracy": epoch / 50}, epoch)
    record.end("FINISHED")
delivery.deliver(folder, store)
"""


@pytest.mark.parametrize("through", ["server", "database"])
def test_eight_parallel_writers_lose_nothing(through, postgres, tmp_path):
    """They meet a database without tables, or a server that has just begun."""
    database = postgres()
    with contextlib.ExitStack() as stack:
        uri = database if through == "database" else stack.enter_context(server(database, tmp_path / "server"))
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, uri, str(tmp_path / "store"), str(number)])
            for number in range(8)
        ]
        assert [writer.wait(300) for writer in writers] == [0] * 8
        client = MlflowClient(uri)
        runs = client.search_runs([client.get_experiment_by_name("eight").experiment_id])
        assert sorted(run.data.params["writer"] for run in runs) == [str(number) for number in range(8)]
        for run in runs:
            assert run.info.status == "FINISHED"
            for key in ("loss", "accuracy"):
                history = client.get_metric_history(run.info.run_id, key)
                assert sorted(point.step for point in history) == list(range(50))


def test_a_team_trains_compares_and_predicts_through_the_server(postgres, tmp_path):
    plan = [*TINY, "tracking.model=true", "tracking.experiment=team", "unfreeze=0,3", f"store={tmp_path / 'store'}"]
    with server(postgres(), tmp_path / "server") as uri:
        out = trained("-m", *plan, f"tracking.uri={uri}")
        assert f"{uri}/#/experiments/" in out
        assert not (tmp_path / "store" / "mlflow.db").exists()
        assert not (tmp_path / "store" / "artifacts").exists()
        ask = {**os.environ, "MLFLOW_TRACKING_URI": uri}
        compare = [sys.executable, str(ROOT / "compare.py"), "team", "--out", str(tmp_path / "page")]
        done = subprocess.run(compare, capture_output=True, text=True, env=ask, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")]
        assert set(lines) - {"│"} == {"0", "3"}  # a score may need a second line for its interval
        assert (tmp_path / "page" / "report.html").exists()
        predict = [sys.executable, str(ROOT / "predict.py"), "--experiment", "team", "--split", "test", "--count", "2"]
        done = subprocess.run([*predict, "--json"], capture_output=True, text=True, env=ask, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len([json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]) == 2


def test_who_may_not_sees_nothing(postgres, tmp_path):
    from mlflow.server import get_app_client

    asked = {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    with server(postgres(), tmp_path / "server", "--users", "--names", "thaw.example.org", **asked) as uri:
        admin = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        plan = [*TINY, "tracking.experiment=ours", f"tracking.uri={uri}", f"store={tmp_path / 'store'}"]
        trained(*plan, **admin)
        with pytest.MonkeyPatch.context() as patch:
            for key, value in admin.items():
                patch.setenv(key, value)
            users = get_app_client("basic-auth", uri)
            users.create_user("guest", "another long password")
        for user, password, reason in [
            ("guest", "another long password", "Permission denied"),
            ("guest", "a wrong password", "not authenticated"),
            ("", "", "not authenticated"),
        ]:
            who = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
            refused = train(*plan, "seed=1", **who)
            out, _ = refused.communicate(timeout=PATIENCE)
            assert refused.returncode == 1, out
            assert reason in out
            assert "failed" in out
            assert "Traceback" not in out
            assert not password or password not in out
            command = [sys.executable, str(ROOT / "compare.py"), "ours"]
            environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, **who}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
            assert done.returncode == 1
            assert "Traceback" not in done.stdout + done.stderr
            assert "test accuracy" not in done.stdout.lower()
        with pytest.MonkeyPatch.context() as patch:
            for key, value in admin.items():
                patch.setenv(key, value)
            users.grant_user_permission("guest", "experiment", "1", "READ")
        who = {"MLFLOW_TRACKING_USERNAME": "guest", "MLFLOW_TRACKING_PASSWORD": "another long password"}
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, **who}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert "test accuracy" in done.stdout.lower(), done.stdout
        # A browser's page may ask the server that it came from, under its name, and no other page may.
        for origin, status in [("https://thaw.example.org", 200), ("https://elsewhere.example.org", 403)]:
            answer = requests.post(
                f"{uri}/ajax-api/2.0/mlflow/experiments/search",
                json={"max_results": 5},
                headers={"Host": "thaw.example.org", "Origin": origin},
                auth=("admin", PASSWORD),
                timeout=PATIENCE,
            )
            assert answer.status_code == status
    assert (tmp_path / "server" / "users.ini").stat().st_mode & 0o077 == 0


def test_files_go_to_an_object_store(postgres, tmp_path):
    boto3 = pytest.importorskip("boto3")
    port = free_port()
    moto = Path(sys.executable).with_name("moto_server")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    keys = {"AWS_ACCESS_KEY_ID": "thaw", "AWS_SECRET_ACCESS_KEY": "thaw", "AWS_DEFAULT_REGION": "us-east-1"}
    keys["MLFLOW_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    with process(moto, "-H", "127.0.0.1", "-p", port, ready=lambda: listens(port), **quiet):
        store = boto3.client(
            "s3", endpoint_url=keys["MLFLOW_S3_ENDPOINT_URL"], aws_access_key_id="thaw", aws_secret_access_key="thaw",
            region_name="us-east-1",
        )  # fmt: skip
        store.create_bucket(Bucket="record")
        artifacts = ["--artifacts", "s3://record/artifacts"]
        with server(postgres(), tmp_path / "server", *artifacts, **keys) as uri:
            plan = [*TINY, "tracking.experiment=s3", f"tracking.uri={uri}", f"store={tmp_path / 'store'}"]
            trained(*plan)  # which knows no key of the object store
            client = MlflowClient(uri)
            (run,) = client.search_runs([client.get_experiment_by_name("s3").experiment_id])
            kept = [each["Key"] for each in store.list_objects_v2(Bucket="record")["Contents"]]
            assert any(key.endswith("predictions.csv") and run.info.run_id in key for key in kept)
            assert client.download_artifacts(run.info.run_id, "predictions.csv", str(tmp_path))
