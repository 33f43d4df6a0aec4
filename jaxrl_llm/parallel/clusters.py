"""What the environment says of a run's processes: who started them, how many they are, where they meet."""

import dataclasses
import glob
import os
import re
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxrl_llm.errors import UserError

Env = Mapping[str, str]

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
PORT = "8476"  # where process 0 listens, unless JAX_COORDINATOR_PORT says otherwise


@dataclass(frozen=True)
class Cluster:
    """The processes of a run, as their launcher describes them."""

    launcher: str
    count: int
    number: int | None  # of this process; None: jax asks the launcher
    address: str | None  # HOST:PORT of process 0; None: jax asks the launcher
    where: str  # VARIABLE=value that says where process 0 is
    devices: Sequence[int] | None = None  # GPUs of this host that are this process's; None: all, or as jax has it

    def __str__(self) -> str:
        which = "one" if self.number is None else f"process {self.number}"
        return f"{which} of {self.count} processes ({self.launcher}), which meet at {self.address or self.where}"


def find_cluster(env: Env) -> Cluster | None:
    """The processes that this one belongs to; None where nothing speaks of others.

    What the user says by VARIABLES holds, all three or some; the launcher says the rest.

    Raises:
        UserError: what the environment says is no whole, or no number.
    """
    given = {name: env[name] for name in VARIABLES if env.get(name)}
    address, count, number = (given.get(name) for name in VARIABLES)
    if len(given) == len(VARIABLES):
        found = Cluster("JAX_* variables", 1, 0, None, "")
    elif (launched := next(filter(None, (ask(env) for ask in LAUNCHERS)), None)) is not None:
        found = launched
    elif given:
        missing = [name for name in VARIABLES if name not in given]
        raise UserError(f"{', '.join(given)} is set, but not {', '.join(missing)}\n  mend: set all three, or none")
    else:
        return None
    if address is not None:
        found = dataclasses.replace(found, address=with_port(address, env), where=f"JAX_COORDINATOR_ADDRESS={address}")
    if count is not None:
        found = dataclasses.replace(found, count=whole(env, "JAX_NUM_PROCESSES"))
    if number is not None:
        found = dataclasses.replace(found, number=whole(env, "JAX_PROCESS_ID"))
    if found.number is not None and found.number >= found.count:
        names = "JAX_PROCESS_ID={} of JAX_NUM_PROCESSES={}" if given else "process {} of {}"
        raise UserError(names.format(found.number, found.count) + ": expected whole numbers, 0 <= ID < NUM")
    return found


def cloud_tpu(env: Env) -> Cluster | None:
    """A TPU slice, or several: jax finds the rest by the variables of GKE, or by the metadata of the machine."""
    if env.get("TPU_ML_PLATFORM") != "JAX":  # jax sets it on import, where it finds chips and libtpu
        return None
    if "tpu" not in (env.get("JAX_PLATFORMS") or "tpu"):
        return None
    slices = env.get("MEGASCALE_NUM_SLICES")
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if hosts := env.get(name):
            break
    else:
        if env.get("TPU_SKIP_MDS_QUERY"):
            return None
        name, hosts = "worker-network-endpoints of the machine's metadata", metadata("worker-network-endpoints", env)
        if not hosts:  # chips, but no Cloud TPU: a notebook that somebody hosts
            return None
        several = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", metadata("tpu-env", env))
        slices = slices or (several[1] if several else None)
    count = len(hosts.split(",")) * int(slices or 1)
    if host := env.get("MEGASCALE_COORDINATOR_ADDRESS"):
        name, hosts = "MEGASCALE_COORDINATOR_ADDRESS", host
    return Cluster("Cloud TPU", count, None, None, f"{name}={hosts.split(',')[0]}")


def skypilot(env: Env) -> Cluster | None:
    """The nodes of a SkyPilot task; the first of them is process 0."""
    if not env.get("SKYPILOT_NODE_IPS"):
        return None
    first = env["SKYPILOT_NODE_IPS"].split()[0]
    count, number = whole(env, "SKYPILOT_NUM_NODES"), whole(env, "SKYPILOT_NODE_RANK")
    return Cluster("SkyPilot", count, number, with_port(first, env), f"SKYPILOT_NODE_IPS={first}")


def jobset(env: Env) -> Cluster | None:
    """Pods of a Kubernetes JobSet with the variables that xpk gives them; ours have JAX_* variables."""
    name, job = env.get("JOBSET_NAME"), env.get("REPLICATED_JOB_NAME")
    if not (name and job):
        return None
    count = whole(env, "NNODES" if "NNODES" in env else "JAX_PROCESS_COUNT")
    if "NODE_RANK" in env:
        number = whole(env, "NODE_RANK")
    else:
        job_index, pods = (whole(env, key) for key in ("JOB_INDEX", "PROCESSES_IN_JOB"))
        number = job_index * pods + whole(env, "JOB_COMPLETION_INDEX")
    first = f"{name}-{job}-0-0.{name}"
    return Cluster("JobSet", count, number, with_port(first, env), f"JOBSET_NAME={name}")


def slurm(env: Env) -> Cluster | None:
    """The tasks of a job step, as jax itself finds them."""
    nodes = env.get("SLURM_STEP_NODELIST")
    if not (nodes and env.get("SLURM_JOB_ID") and env.get("SLURM_PROCID") and env.get("SLURM_LOCALID")):
        return None
    count, number, local = (whole(env, key) for key in ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"))
    tasks = tasks_by_node(env.get("SLURM_STEP_TASKS_PER_NODE") or "1")
    here = tasks[min(int(env.get("SLURM_NODEID") or 0), len(tasks) - 1)]
    return Cluster("SLURM", count, number, None, f"SLURM_STEP_NODELIST={nodes}", gpus_of_task(local, here, env))


def open_mpi(env: Env) -> Cluster | None:
    """The ranks of mpirun.  Open MPI 5 no longer says where rank 0 is."""
    if not env.get("OMPI_COMM_WORLD_SIZE"):
        return None
    count, number = whole(env, "OMPI_COMM_WORLD_SIZE"), whole(env, "OMPI_COMM_WORLD_RANK")
    local, here = whole(env, "OMPI_COMM_WORLD_LOCAL_RANK"), whole(env, "OMPI_COMM_WORLD_LOCAL_SIZE")
    uri = env.get("OMPI_MCA_orte_hnp_uri")
    if count > 1 and not uri and not env.get("JAX_COORDINATOR_ADDRESS"):
        raise UserError(
            f"mpirun started {count} processes and does not say where process 0 is\n"
            "  mend: mpirun -x JAX_COORDINATOR_ADDRESS=HOST_OF_RANK_0:12345 ..."
        )
    return Cluster("Open MPI", count, number, None, f"OMPI_MCA_orte_hnp_uri={uri}", gpus_of_task(local, here, env))


LAUNCHERS: tuple[Callable[[Env], Cluster | None], ...] = (cloud_tpu, skypilot, jobset, slurm, open_mpi)


def gpus_of_task(local: int, tasks: int, env: Env) -> Sequence[int] | None:
    """The GPUs of one of the tasks on a host: a fair share of what it sees.

    jax by itself takes one GPU a task: too few where a node runs one task, and not there where the launcher shows each
    task its own GPUs alone.  None where the user decided (JAX_LOCAL_DEVICE_IDS), or there are no GPUs.
    """
    visible = env.get("CUDA_VISIBLE_DEVICES")
    number = len(visible.split(",")) if visible else len(glob.glob("/dev/nvidia[0-9]*"))
    if number == 0 or env.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    if number < tasks:
        return range(number)
    share = number // tasks
    return range(local * share, (local + 1) * share)


def tasks_by_node(text: str) -> list[int]:
    """SLURM's "2(x3),1" as [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def with_port(host: str, env: Env) -> str:
    """HOST:PORT, where only the host is known."""
    return host if re.search(r":\d+$", host) else f"{host}:{env.get('JAX_COORDINATOR_PORT') or PORT}"


def whole(env: Env, name: str) -> int:
    """A variable that has to be a whole number."""
    text = env.get(name, "")
    if not text.isdecimal():
        raise UserError(
            f"{name}={text or '(not set)'}: expected a whole number, by which several processes find each other\n"
            f"  mend: set all of {', '.join(VARIABLES)}"
        )
    return int(text)


def metadata(key: str, env: Env = os.environ) -> str:
    """What Google's metadata server says of this machine; "" where there is none."""
    host = env.get("GCE_METADATA_IP") or "metadata.google.internal"
    url = f"http://{host}/computeMetadata/v1/instance/attributes/{key}"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers={"Metadata-Flavor": "Google"}), timeout=10
        ) as reply:
            return reply.read().decode()
    except OSError:
        return ""
