"""Who the other processes are, and that they are of one mind or stop."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel.clusters import cloud_tpu, find_cluster, gpus_of_task, tasks_by_node
from tests.launcher import environment

EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NODEID": "1",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
SKY = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
XPK = {"JOBSET_NAME": "run", "REPLICATED_JOB_NAME": "slice-job", "NNODES": "2", "NODE_RANK": "1"}
XPK_CPU = XPK | {"JAX_PROCESS_COUNT": "6", "JOB_INDEX": "2", "PROCESSES_IN_JOB": "2", "JOB_COMPLETION_INDEX": "1"}
for key in ("NNODES", "NODE_RANK"):
    del XPK_CPU[key]
TPU = {"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3"}


@pytest.mark.parametrize(
    ("env", "launcher", "count", "number", "address"),
    [
        (EXPLICIT, "JAX_* variables", 4, 3, "host:1"),
        (EXPLICIT | SLURM | SKY, "JAX_* variables", 4, 3, "host:1"),  # the user's word
        (SLURM, "SLURM", 2, 1, None),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "other"}, "SLURM", 2, 1, "other:8476"),
        (MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}, "Open MPI", 4, 3, None),
        (MPI | {"JAX_COORDINATOR_ADDRESS": "other:9"}, "Open MPI", 4, 3, "other:9"),
        (SKY, "SkyPilot", 2, 1, "10.0.0.1:8476"),
        (XPK | {"JAX_COORDINATOR_PORT": "6002"}, "JobSet", 2, 1, "run-slice-job-0-0.run:6002"),
        (XPK_CPU, "JobSet", 6, 5, "run-slice-job-0-0.run:8476"),
        (TPU, "Cloud TPU", 4, None, None),
        (TPU | {"MEGASCALE_NUM_SLICES": "2"}, "Cloud TPU", 8, None, None),
        (TPU | {"TPU_WORKER_HOSTNAMES": "localhost"}, "Cloud TPU", 1, None, None),  # which `join` lets be
    ],
)
def test_launchers_are_recognised(
    env: dict[str, str], launcher: str, count: int, number: int | None, address: str | None
) -> None:
    found = find_cluster(env)
    assert found is not None
    assert (found.launcher, found.count, found.number, found.address) == (launcher, count, number, address)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},  # the batch script itself, no step
        TPU | {"JAX_PLATFORMS": "cpu"},
        {"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"},  # a hosted notebook
        {"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": "127.0.0.1:9"},
    ],
)
def test_who_is_alone_finds_nobody(env: dict[str, str]) -> None:
    assert find_cluster(env) is None


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"JAX_PROCESS_ID": "1"}, "not JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        (EXPLICIT | {"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4 of JAX_NUM_PROCESSES=4: .* 0 <= ID < NUM"),
        (EXPLICIT | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES=two: expected a whole number"),
        (MPI, "mpirun started 4 processes and does not say where"),
        (SKY | {"SKYPILOT_NODE_RANK": ""}, "SKYPILOT_NODE_RANK=.not set"),
        ({"JOBSET_NAME": "run", "REPLICATED_JOB_NAME": "job"}, "JAX_PROCESS_COUNT=.not set"),
    ],
)
def test_what_is_no_whole_is_refused(env: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_cluster(env)


@pytest.fixture
def metadata() -> Iterator[str]:
    """A metadata server of a slice of two hosts, one of three slices."""
    values = {"worker-network-endpoints": "a:1:10.0.0.1,b:2:10.0.0.2", "tpu-env": "X: 'y'\nMEGASCALE_NUM_SLICES: '3'\n"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(values[self.path.rsplit("/", 1)[1]].encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_tpu_machine_asks_its_metadata(metadata: str) -> None:
    found = cloud_tpu({"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": metadata})
    assert found is not None
    assert found.count == 6


def test_jax_still_says_where_it_found_a_tpu() -> None:
    """`cloud_tpu` reads what jax does on import; here it is made to believe."""
    script = "import os, jax; print(os.environ['TPU_ML_PLATFORM'])"
    env = environment() | {"JAX_FORCE_TPU_INIT": "1"}
    assert subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True).stdout == "JAX\n"


@pytest.mark.parametrize(
    ("visible", "local", "tasks", "expected"),
    [
        ("0,1,2,3,4,5,6,7", 0, 1, list(range(8))),  # one task a node has all
        ("0,1,2,3", 2, 4, [2]),
        ("0,1,2,3", 1, 2, [2, 3]),
        ("5", 3, 4, [0]),  # the launcher has shown each task its own
    ],
)
def test_tasks_of_a_node_share_its_gpus(visible: str, local: int, tasks: int, expected: list[int]) -> None:
    assert list(gpus_of_task(local, tasks, {"CUDA_VISIBLE_DEVICES": visible}) or ()) == expected


def test_the_user_may_share_gpus_otherwise() -> None:
    assert gpus_of_task(0, 1, {"CUDA_VISIBLE_DEVICES": "0,1", "JAX_LOCAL_DEVICE_IDS": "1"}) is None
    assert tasks_by_node("2(x3),1") == [2, 2, 2, 1]


SCRIPT = """
import sys
from jaxrl_llm.errors import UserError
from jaxrl_llm.parallel import runtime
from jaxrl_llm.parallel.distributed import is_main, main_first, same_everywhere
def main():
    runtime.start()
    same_everywhere({"training.steps": 4, "only": "here"})
    assert main_first(lambda: 5) == 5
    for number, attempt in enumerate((
        lambda: same_everywhere({"seed": 0 if is_main() else 1, "data.path": "a"} | ({} if is_main() else {"x": 1})),
        lambda: main_first(lambda: open("/no/such/file") if is_main() else 5),
    )):
        try:
            attempt()
        except (UserError, OSError) as error:
            print(number, type(error).__name__, error)
        else:
            sys.exit("nobody stopped")
try:
    main()
except UserError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(2)
"""


def start(**env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parent.parent.parent
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=root, env=environment() | env, text=True, **pipes)


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_processes_that_do_not_agree_stop_all_with_the_key() -> None:
    env = {"JAX_COORDINATOR_ADDRESS": free_address(), "JAX_NUM_PROCESSES": "2", "JAXRL_JOIN_TIMEOUT": "60"}
    processes = [start(**env, JAX_PROCESS_ID=str(i)) for i in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for number, (out, err) in enumerate(outputs):
        assert f"process {number} of 2 processes (JAX_* variables), which meet at 127.0.0.1:" in err
        assert "  seed: 0 on process 0, 1 on process 1\n  x: (not there) on process 0, 1 on process 1" in out
        assert "data.path" not in out
    assert "1 FileNotFoundError" in outputs[0][0]
    assert "1 UserError process 0 stopped with an error" in outputs[1][0]


@pytest.mark.parametrize(
    ("number", "why"), [("1", "nobody answers at {}"), ("0", "process 0 answers at {}, so others are missing")]
)
def test_waiting_ends_in_time_with_the_address_and_the_variable(number: str, why: str) -> None:
    address, begun = free_address(), time.monotonic()
    process = start(
        JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=number, JAXRL_JOIN_TIMEOUT="1"
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "waited 1 s for the others; " + why.format(address) in err
    assert f"JAX_COORDINATOR_ADDRESS={address}" in err
    assert "Traceback" not in err
    assert time.monotonic() - begun < 40


def test_a_timeout_is_seconds() -> None:
    process = start(**EXPLICIT, JAXRL_JOIN_TIMEOUT="soon")
    assert "JAXRL_JOIN_TIMEOUT=soon: expected seconds" in process.communicate(timeout=60)[1]
    assert process.returncode == 2
