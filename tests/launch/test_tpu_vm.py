"""launch/tpu_vm.sh and worker.sh, with a gcloud that is none, and folders for hosts."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch.stand_ins import LAUNCH, ODD, POP, Desk, in_bash, until

WHERE = ["--zone", "z", "--quiet"]
AT = ["--zone", "z", "--poll", "0"]
TYPE = ["--type", "v5litepod-16"]

# States are popped from files; `missing` is gcloud's error for what is not there.
GCLOUD = (
    POP
    + r"""
missing() { echo "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'projects/p/x' was not found" >&2; exit 1; }
tell() { local said; said=$(pop "$1")
  case $said in ABSENT) missing ;; BROKEN) echo 'ERROR: (gcloud) no network' >&2; exit 1 ;; *) echo "$said" ;; esac; }
each() { # command: on each host, as ssh would
  local host worst=0
  for host in "$DESK"/hosts/*; do
    [ "$worker" = all ] || [ "$worker" = "${host##*/}" ] || continue
    (cd "$host" && HOME=$host exec bash -c "$1") || worst=$?
  done
  exit $worst
}
worker=''
for ((i = 1; i <= $#; i++)); do
  [ "${!i}" != --worker ] || { j=$((i + 1)); worker=${!j}; }
done
case "$3 $4" in
  'queued-resources describe') tell queue ;;
  'tpu-vm describe') tell node ;;
  'queued-resources create') [ ! -e "$DESK/refuse" ] || { echo 'ERROR: quota' >&2; exit 1; } ;;
  'tpu-vm scp')
    for host in "$DESK"/hosts/*; do [ ! -d "$host" ] || cp "$5" "$host/${6#*:}"; done ;;
  'tpu-vm ssh')
    command=${*: -4:1}
    [ ! -d "$DESK/hosts" ] || each "$command"
    case $command in
      *'worker.sh status'*)
        said=$(pop status)
        [ "$said" != dead ] || exit 255
        printf '#### worker ####\n%s\n' "$said" ;;
      *'worker.sh ready'*) exit 1 ;;
    esac ;;
esac
exit 0
"""
)


@pytest.fixture
def cloud(desk: Desk) -> Desk:
    desk.stand_in("gcloud", GCLOUD)
    return desk


def short(call: list[str]) -> str:
    """A call by its verb, the host and what it does there."""
    assert call[:3] == ["gcloud", "compute", "tpus"]
    kind, verb, name, *rest = call[3:]
    if verb == "describe":
        assert rest[-2:] == ["--format", "value(state.state)" if kind == "queued-resources" else "value(state)"]
        assert rest[:-2] == WHERE
    else:
        assert rest[-3:] == WHERE, call
    if verb == "scp":
        return f"scp {name.rsplit('/', 1)[-1]} {rest[0]} {rest[2]}"
    assert name == "my-run"
    if verb == "ssh":
        at = rest.index("--command")
        assert [word for word in rest if "ServerAlive" in word]  # a dead host is given up
        command = rest[at + 1]
        return f"ssh {rest[1]} {command.split('worker.sh ')[-1] if 'worker.sh' in command else command}"
    return f"{kind} {verb}" + (" --force" if "--force" in rest else "")


LOOK = ["queued-resources describe", "tpu-vm describe"]
SETUP = ["scp jaxrl_llm.tar.gz my-run:jaxrl_llm.tar.gz all", "ssh all setup"]


def test_a_preempted_slice_is_queued_for_again_and_the_run_goes_on(cloud: Desk) -> None:
    cloud.will_say(
        "queue", "ABSENT", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "ABSENT", "ACTIVE"
    )
    cloud.will_say("node", "ABSENT", "ABSENT", "CREATING", "READY", "PREEMPTED", "PREEMPTED", "ABSENT", "READY")
    cloud.will_say("status", "dead", "run=running", "dead", "dead", "run=running", "run=0")
    said = cloud.run("tpu_vm.sh", "run", "my-run", *AT, *TYPE, "--spot", "--", "train", "c")
    assert [short(call) for call in cloud.calls()] == [
        *LOOK, "queued-resources create", *LOOK, *LOOK, *LOOK,
        "ssh 0 status my-run", *SETUP, "ssh all start my-run train c",
        "ssh 0 status my-run", "ssh 0 status my-run", *LOOK,  # running, then dead: preempted
        *LOOK, "queued-resources delete --force", *LOOK, "queued-resources create", *LOOK,
        "ssh 0 status my-run", "ssh all ready", *SETUP, "ssh all start my-run train c",
        "ssh 0 status my-run", "ssh 0 status my-run", "ssh all status my-run",
    ]  # fmt: skip
    create = next(call for call in cloud.calls() if "create" in call)
    assert " ".join(create[4:-3]) == (
        "create my-run --node-id my-run --accelerator-type v5litepod-16"
        " --runtime-version v2-alpha-tpuv5-lite --spot --async"
    )
    assert "my-run is gone (queue: SUSPENDED, slice: PREEMPTED); queueing for another" in said


def ready(cloud: Desk) -> None:
    cloud.will_say("queue", "ACTIVE")
    cloud.will_say("node", "READY")


@pytest.mark.parametrize(
    ("ends", "code", "starts"),
    [
        (["run=42", "run=43", "run=134", "run=137", "run=0"], 0, 5),
        (["run=2"], 2, 1),
        (["run=74"], 74, 1),
        (["run=1 run=0"], 1, 1),
        (["run=1 run=137 run=1", "run=42 run=2"], 2, 2),  # 1 because of the one that was killed
        (["run=none"] * 3, 137, 3),
        (["run=stopped"], 42, 1),
    ],
)
def test_which_ends_are_tried_again(cloud: Desk, ends: list[str], code: int, starts: int) -> None:
    """An error is not; a stop that was asked for is not; and not for ever."""
    ready(cloud)
    status = ["dead"]
    for end in ends:
        status += [end, end, end]  # of the first host, of all, and before the next start
    cloud.will_say("status", *status)
    restarts = "9" if code == 0 else "2"
    cloud.run("tpu_vm.sh", "run", "my-run", *AT, "--restarts", restarts, "--", "train", "c", code=code)
    assert sum("start my-run train c" in short(call) for call in cloud.calls()) == starts


def test_a_host_that_ends_late_does_not_start_a_stopped_run_again(cloud: Desk) -> None:
    ready(cloud)
    cloud.will_say("status", "dead", *["run=stopped", "run=stopped run=running"] * 10)
    said = cloud.run("tpu_vm.sh", "run", "my-run", *AT, "--", "train", "c", code=42)
    assert "my-run was stopped and has saved" in said


def test_one_that_runs_is_followed(cloud: Desk) -> None:
    ready(cloud)
    cloud.will_say("status", "run=running", "run=running", "run=0")
    said = cloud.run("tpu_vm.sh", "run", "my-run", *AT, "--", "train", "c")
    assert "following it, with the arguments that it was started with" in said
    assert not [call for call in cloud.calls() if "scp" in call or "start" in short(call)]


def test_waiting_ends_and_says_for_what(cloud: Desk) -> None:
    cloud.will_say("queue", "WAITING_FOR_RESOURCES")
    cloud.will_say("node", "ABSENT")
    said = cloud.run("tpu_vm.sh", "run", "my-run", *AT, *TYPE, "--wait", "0", "--", "train", "c", code=2)
    assert "no slice my-run of type v5litepod-16 in z after 0 s (queue: WAITING_FOR_RESOURCES, slice: ABSENT)" in said
    cloud.will_say("queue", "BROKEN")
    said = cloud.run("tpu_vm.sh", "queue", "my-run", *AT, *TYPE, code=2)
    assert "error: gcloud failed ten times in a row: ERROR: (gcloud) no network" in said


def test_a_refused_request_is_not_repeated_for_ever(cloud: Desk) -> None:
    cloud.will_say("queue", "ABSENT", "FAILED")
    cloud.will_say("node", "ABSENT")
    said = cloud.run("tpu_vm.sh", "queue", "my-run", *AT, *TYPE, code=1)
    assert "the queue refused my-run" in said
    cloud.will_say("queue", "ABSENT")
    (cloud.root / "refuse").touch()
    cloud.calls_file.unlink()
    said = cloud.run("tpu_vm.sh", "queue", "my-run", *AT, *TYPE, code=2)
    assert sum("create" in call for call in cloud.calls()) == 5
    assert "gcloud did not queue for my-run" in said


def test_a_stopped_slice_is_left_alone(cloud: Desk) -> None:
    cloud.will_say("queue", "ACTIVE")
    cloud.will_say("node", "STOPPED")
    said = cloud.run("tpu_vm.sh", "run", "my-run", *AT, "--", "train", "c", code=2)
    assert "my-run is STOPPED: gcloud compute tpus tpu-vm start my-run --zone z" in said
    assert [short(call) for call in cloud.calls()] == LOOK


def test_single_verbs(cloud: Desk) -> None:
    ready(cloud)
    for args, calls in {
        ("create", *TYPE): ["tpu-vm create"],
        ("setup",): SETUP,
        ("status",): [*LOOK, "ssh all status my-run"],
        ("logs", "--worker", "3"): ["ssh 3 logs my-run"],
        ("stop",): ["ssh all stop my-run"],
        ("delete",): [*LOOK, "queued-resources delete --force"],
    }.items():
        cloud.calls_file.unlink(missing_ok=True)
        cloud.run("tpu_vm.sh", args[0], "my-run", *AT, *args[1:])
        assert [short(call) for call in cloud.calls()] == calls
    cloud.will_say("queue", "ABSENT")
    cloud.calls_file.unlink()
    cloud.run("tpu_vm.sh", "delete", "my-run", *AT)
    assert short(cloud.calls()[-1]) == "tpu-vm delete"
    cloud.will_say("node", "ABSENT")
    cloud.calls_file.unlink()
    assert "there is no my-run in z" in cloud.run("tpu_vm.sh", "delete", "my-run", *AT)
    assert [short(call) for call in cloud.calls()] == LOOK


def test_dry_run_prints_what_bash_would_run_and_calls_nothing(cloud: Desk) -> None:
    secret = cloud.root / "my env"
    secret.write_text("TOKEN=hush\n")
    args = ["--project", "p q", "--env-file", str(secret), "--nfs", "10.0.0.2:/vol", "--dry-run", "--", *ODD]
    said = cloud.run("tpu_vm.sh", "run", "my-run", *AT, *TYPE, *args)
    assert not cloud.calls()
    assert "hush" not in said
    lines = [in_bash(line) for line in said.splitlines()]
    assert [line[0] for line in lines] == ["env"] + ["gcloud"] * 7
    assert all("p q" in line for line in lines[1:])
    assert [line[3:5] for line in lines[1:]] == [
        ["queued-resources", "create"],
        *([["tpu-vm", kind] for kind in ("scp", "ssh", "scp", "ssh", "ssh", "ssh")]),
    ]
    command = lines[6][lines[6].index("--command") + 1]
    assert in_bash(command)[-len(ODD) :] == ODD
    for verb in ("delete", "stop", "logs", "status", "setup", "queue", "create"):
        assert "gcloud" in cloud.run("tpu_vm.sh", verb, "my-run", *AT, *TYPE, "--dry-run")
    assert not cloud.calls()


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["run", "My_Run", *AT, "--", "train"], "My_Run: not a name for a run"),
        (["run", "-x", *AT, "--", "train"], "-x: not a name"),
        (["run", "a" * 41, *AT, "--", "train"], "not a name"),
        (["run", "a;rm", *AT, "--", "train"], "not a name"),
        (["run"], "(no name): not a name"),
        (["fly", "my-run"], "fly: expected create"),
        ([], "(nothing): expected create"),
        (["run", "my-run", "--", "train"], "--zone: in which zone?"),
        (["run", "my-run", *AT], "nothing to run"),
        (["stop", "my-run", *AT, "--", "train"], "stop takes no arguments"),
        (["queue", "my-run", *AT], "--type: which slice"),
        (["run", "my-run", *AT, "--poll", "soon", "--", "train"], "--poll soon: expected a whole number"),
        (["run", "my-run", *AT, "--env-file", "/none", "--", "train"], "--env-file /none: cannot be read"),
        (["run", "my-run", *AT, "--tpye", "x"], "--tpye: not an option"),
        (["run", "my-run", "--zone"], "--zone: its value is missing"),
    ],
)
def test_wrong_usage_is_said_in_one_line(cloud: Desk, args: list[str], why: str) -> None:
    said = cloud.run("tpu_vm.sh", *args, code=2)
    assert said.startswith(f"error: {why}") or (why == "not a name" and why in said)
    assert len(said.splitlines()) == 1
    assert not cloud.calls()


def test_gcloud_is_named_where_it_is_not_there(desk: Desk) -> None:
    said = desk.run("tpu_vm.sh", "status", "my-run", *AT, code=2)
    assert said == "error: gcloud is not on PATH: https://cloud.google.com/sdk/docs/install\n"


JAXRL = r"""
{ printf '%s\0' "$@"; } >"$HOME/args"
pwd >"$HOME/cwd"
echo "$TOKEN" >"$HOME/token"
echo "begun $#"
trap 'echo saved; exit 42' TERM
while [ ! -e "$HOME/go" ]; do sleep 0.02; done
exit "$(cat "$HOME/go")"
"""


@pytest.fixture
def hosts(cloud: Desk) -> list[Path]:
    """Two hosts on which python and uv install nothing but a jaxrl-llm that is none."""
    ready(cloud)
    cloud.stand_in("python3")
    made = [cloud.root / "hosts" / str(number) for number in (0, 1)]
    for home in made:
        for file, body in {"jaxrl_venv/bin/jaxrl-llm": JAXRL, "jaxrl_venv/bin/python": "", ".local/bin/uv": ""}.items():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text("#!/usr/bin/env bash\n" + body)
            (home / file).chmod(0o755)
    return made


def begun(host: Path) -> bool:
    return (host / "token").exists() and (host / "token").read_text() != ""


def test_on_its_hosts(cloud: Desk, hosts: list[Path]) -> None:
    """Arguments and secrets arrive whole, it starts again after a kill, and ends when it is stopped."""
    secret = cloud.root / "env"
    secret.write_text("# mine\nTOKEN=hush $(no) 'q'\n")
    command = [str(LAUNCH / "tpu_vm.sh"), "run", "my-run", *AT, "--env-file", str(secret), "--", *ODD]
    ran = subprocess.Popen(
        command, cwd=cloud.root, env=cloud.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        until(lambda: all(map(begun, hosts)), ran)
        for home in hosts:
            assert (home / "args").read_text().split("\0")[:-1] == ODD
            assert (home / "token").read_text() == "hush $(no) 'q'\n"
            assert (home / ".jaxrl_env").stat().st_mode & 0o777 == 0o600
            assert (home / "cwd").read_text() == f"{home}/jaxrl_llm\n"
            assert (home / "jaxrl_llm" / "configs").is_dir()
        assert not any("hush" in word for call in cloud.calls() for word in call)
        os.kill(int((hosts[0] / "jaxrl_runs/my-run/pid").read_text()), signal.SIGKILL)
        logs = [home / "jaxrl_runs/my-run/log" for home in hosts]
        until(lambda: all(log.read_text().count("begun") == 2 for log in logs), ran)
        assert "saved" in logs[1].read_text()  # what was left was stopped, not killed
        assert cloud.run("tpu_vm.sh", "status", "my-run", *AT).count("run=running") == 2
        cloud.run("tpu_vm.sh", "stop", "my-run", *AT)
        said, _ = ran.communicate(timeout=100)
    finally:
        ran.kill()
        for home in hosts:
            (home / "go").write_text("9")  # nothing of it stays
    assert ran.returncode == 42, said
    assert "exit code 137; restart 1 of 10" in said
    assert "my-run was stopped and has saved" in said
