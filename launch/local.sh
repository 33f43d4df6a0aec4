#!/usr/bin/env bash
# Several processes of one run on this machine, started again when they are stopped: see --help.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: launch/local.sh [--procs N] [--sim-devices M] [--restarts R] [--backoff S] [--grace S] -- ARGS of jaxrl-llm

Runs `jaxrl-llm ARGS` in N processes that know of each other, each line of theirs with its process's number before it.
When one dies the others are stopped; after exit codes 42, 43 and 134, or a kill, all start again and go on from the
newest checkpoint.  A SIGTERM or Ctrl-C to this script is passed on, and ends it when they have saved.

  --procs N        processes (1); GPUs are divided among them
  --sim-devices M  each process simulates M devices on the CPU
  --restarts R     so often in a row; who ran for ten minutes starts to count anew (10)
  --backoff S      seconds before the first restart, doubled for each further one up to 60 (1)
  --grace S        seconds that the others have to end by themselves when one died (30)

The exit code is the worst of the processes': an error's before a death's before 42's before 0.
TEXT
}

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

procs=1 devices='' restarts=10 backoff=1 grace=30
while (($#)); do
  case $1 in
    --procs | --sim-devices | --restarts | --backoff | --grace)
      [[ ${2-} =~ ^[0-9]+$ ]] || die "$1 ${2-(nothing)}: expected a whole number"
      case $1 in
        --procs) procs=$2 ;;
        --sim-devices) devices=$2 ;;
        --restarts) restarts=$2 ;;
        --backoff) backoff=$2 ;;
        --grace) grace=$2 ;;
      esac
      shift 2
      ;;
    --help | -h) usage && exit 0 ;;
    --) shift && break ;;
    *) die "$1: expected an option of --help, then -- and the arguments of jaxrl-llm" ;;
  esac
done
(($#)) || die 'nothing to run: launch/local.sh --procs 2 -- train CONFIG'
((procs > 0)) || die '--procs 0: nobody would run'
command -v jaxrl-llm >/dev/null || die 'jaxrl-llm is not on PATH: activate the environment that it is installed in'

gpus=0
if [[ -z $devices ]] && ((procs > 1)) && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi -L | grep -c '^GPU') || true
  ((gpus % procs == 0)) || die "--procs $procs: does not divide the $gpus GPUs of this machine"
fi

scratch=$(mktemp -d)
pids=() printers=()
stopping=''

# shellcheck disable=SC2329  # called by trap
cleanup() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  rm -rf "$scratch"
}
trap cleanup EXIT

# To the leaders alone: a pipeline passes it on to its stage, which takes a second one for "stop at once".
signal_all() {
  local pid
  for pid in ${pids[@]+"${pids[@]}"}; do kill "-$1" "$pid" 2>/dev/null || true; done
}
trap 'stopping=TERM; signal_all TERM' TERM
trap 'stopping=INT; signal_all INT' INT

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

start_one() { # number, port; arguments
  local number=$1 port=$2 share=$((gpus / procs))
  shift 2
  mkfifo "$scratch/$number"
  # Apart from any signal, so that last words are printed; ends when the process has closed its side.
  (trap '' TERM INT && exec sed -u "s/^/[$number] /") <"$scratch/$number" &
  printers+=($!)
  (
    if ((procs > 1)); then
      export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$procs JAX_PROCESS_ID=$number
    fi
    if ((share > 0)); then
      JAX_LOCAL_DEVICE_IDS=$(seq -s, $((number * share)) $(((number + 1) * share - 1)))
      export JAX_LOCAL_DEVICE_IDS
    fi
    if [[ -n $devices ]]; then
      export JAX_PLATFORMS=cpu
      export XLA_FLAGS="${XLA_FLAGS-} --xla_force_host_platform_device_count=$devices"
    fi
    exec jaxrl-llm "$@"
  ) >"$scratch/$number" 2>&1 </dev/null &
  pids+=($!)
}

# How bad an exit code is.  A death that we caused is no worse than the one that made us.
badness() { # code, whether it ended after we had signalled it
  case $1 in
    0) echo 0 ;;
    42) echo 1 ;;
    43 | 134 | 137) echo 2 ;;
    *) if (($1 > 128)) && [[ -n $2 ]]; then echo 1; else echo 3; fi ;;
  esac
}

# Runs all processes to their end; sets `code` to the worst of their exit codes.
attempt() {
  local number port waited=0 ended signalled='' alive=() left
  pids=() printers=() code=0
  port=$(free_port)
  set -m # each process leads a group of its own, with all that it starts
  for ((number = 0; number < procs; number++)); do start_one "$number" "$port" "$@"; done
  set +m
  [[ -z $stopping ]] || signal_all "$stopping"
  alive=("${pids[@]}")
  while ((${#alive[@]})); do
    sleep 0.1 || true # a signal to the group, as of a Ctrl-C, ends it too
    left=()
    for number in "${alive[@]}"; do
      if kill -0 "$number" 2>/dev/null; then
        left+=("$number")
        continue
      fi
      ended=0
      wait "$number" || ended=$?
      (($(badness "$ended" "$signalled") <= $(badness "$code" ''))) || code=$ended
    done
    alive=(${left[@]+"${left[@]}"})
    if ((code && ${#alive[@]})); then
      if [[ -z $signalled ]]; then
        signalled=yes
        [[ -n $stopping ]] || signal_all TERM
      elif ((++waited > grace * 10)); then
        for number in "${alive[@]}"; do kill -KILL -- "-$number" 2>/dev/null || true; done
      fi
    fi
  done
  for number in "${pids[@]}"; do kill -KILL -- "-$number" 2>/dev/null || true; done
  wait "${printers[@]}" || true
  rm -f "$scratch"/*
}

failures=0 code=0
while true; do
  begun=$SECONDS
  attempt "$@"
  case $code in 42 | 43 | 134 | 137) ;; *) exit "$code" ;; esac
  [[ -z $stopping ]] || exit "$code"
  ((SECONDS - begun < 600)) || failures=0
  if ((++failures > restarts)); then
    echo "local.sh: exit code $code after $restarts restarts in a row: not again" >&2
    exit "$code"
  fi
  delay=$((backoff << (failures < 7 ? failures - 1 : 6)))
  ((delay <= 60)) || delay=60
  echo "local.sh: exit code $code; restart $failures of $restarts in $delay s" >&2
  sleep "$delay" &
  wait $! || true
  [[ -z $stopping ]] || exit "$code"
done
