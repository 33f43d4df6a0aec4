#!/usr/bin/env bash
# A run on a slice of Cloud TPU, from the queue to its end, across preemptions: see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

usage() {
  cat <<'TEXT'
usage: launch/tpu_vm.sh VERB NAME --zone ZONE [options] [-- ARGS of jaxrl-llm]

  create   a slice at once                        status   of the slice, and of the run on each host
  queue    for a slice, and wait for it           logs     of the first host; --worker N for another's
  setup    this folder and its packages there     stop     the run: it saves and ends with 42
  run      ARGS, to the end                       delete   the slice, and its place in the queue

`run` queues for the slice if there is none, and sets it up.  When it is preempted, `run` queues for another, sets that
up and goes on from the newest checkpoint; after exit codes 42, 43 and 134, or a kill, it starts again.  Interrupted
itself, it leaves the run going; called again, it follows the run that is there.

  --type TYPE      such as v5litepod-16, v5p-32, v6e-64; needed for a new slice
  --runtime R      of the machines (that of TYPE)
  --spot           may be preempted, costs less
  --project P      (gcloud's)
  --nfs HOST:/DIR  mounted at /shared on all hosts: workdir and data.cache_dir belong there
  --env-file FILE  lines of NAME=value, copied to the hosts for the run's environment: secrets go here
  --worker N       whose log
  --poll S         seconds between two looks (30)
  --wait S         seconds to wait for a slice (86400)
  --restarts R     so often in a row without a preemption (10)
  --dry-run        print what would be run, as if there were no slice yet
TEXT
}

zone='' type='' runtime='' nfs='' env_file='' worker=0 poll=30 patience=86400 restarts=10
where=() spot=()
case ${1-} in
  create | queue | setup | run | status | logs | stop | delete) verb=$1 ;;
  --help | -h) usage && exit 0 ;;
  *) die "${1:-(nothing)}: expected create, queue, setup, run, status, logs, stop or delete; --help says more" ;;
esac
name=${2-}
check_name "$name"
shift 2
while (($#)); do
  case $1 in
    --spot) spot=(--spot) ;;
    --dry-run) dry=yes ;;
    --) shift && break ;;
    --zone | --type | --runtime | --project | --nfs | --env-file | --worker | --poll | --wait | --restarts)
      [[ -n ${2-} ]] || die "$1: its value is missing"
      case $1 in
        --zone) zone=$2 ;;
        --type) type=$2 ;;
        --runtime) runtime=$2 ;;
        --project) where+=(--project "$2") ;;
        --nfs) nfs=$2 ;;
        --env-file) env_file=$2 ;;
        --worker) worker=$2 ;;
        --poll) check_whole "$1" "$2" && poll=$2 ;;
        --wait) check_whole "$1" "$2" && patience=$2 ;;
        --restarts) check_whole "$1" "$2" && restarts=$2 ;;
      esac
      shift
      ;;
    *) die "$1: not an option; --help names them" ;;
  esac
  shift
done
[[ -n $zone ]] || die '--zone: in which zone?'
[[ $worker =~ ^([0-9]+|all)$ ]] || die "--worker $worker: expected a number, or all"
[[ -z $env_file || -r $env_file ]] || die "--env-file $env_file: cannot be read"
[[ $verb != run || $# -gt 0 ]] || die "nothing to run: launch/tpu_vm.sh run $name ... -- train CONFIG"
[[ $verb == run || $# -eq 0 ]] || die "$verb takes no arguments of jaxrl-llm: $(quoted "$@")"
case $verb in create | queue) [[ -n $type ]] || die '--type: which slice shall be made?  such as v5litepod-16' ;; esac
[[ -n $dry ]] || need gcloud https://cloud.google.com/sdk/docs/install
where+=(--zone "$zone" --quiet)
case $type in # https://cloud.google.com/tpu/docs/runtimes
  v5litepod-*) : "${runtime:=v2-alpha-tpuv5-lite}" ;;
  v5p-*) : "${runtime:=v2-alpha-tpuv5}" ;;
  v6e-*) : "${runtime:=v2-alpha-tpuv6e}" ;;
  *) : "${runtime:=tpu-ubuntu2204-base}" ;;
esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# A connection to a host that no longer answers ends after two minutes.
patient=(-oConnectTimeout=30 -oServerAliveInterval=30 -oServerAliveCountMax=4)
tpus() { run gcloud compute tpus "$@" "${where[@]}"; }
on() { tpus tpu-vm ssh "$name" --worker "$1" "${patient[@]/#/--ssh-flag=}" --command "$2"; } # worker, command
copy() { tpus tpu-vm scp "$1" "$name:$2" --worker all "${patient[@]/#/--scp-flag=}"; }      # file, where to
worker() { printf 'bash jaxrl_llm/launch/worker.sh %s' "$(quoted "$@")"; }                  # verb, its arguments

# The state of the slice or of its place in the queue; ABSENT where there is none, UNKNOWN where gcloud fails.
state() { # tpu-vm or queued-resources, field
  local told
  if told=$(gcloud compute tpus "$1" describe "$name" "${where[@]}" --format "value($2)" 2>"$scratch/errors") && [[ -n $told ]]; then
    printf '%s' "$told"
  elif grep -qE 'NOT_FOUND|was not found' "$scratch/errors"; then
    printf ABSENT
  else
    mv "$scratch/errors" "$scratch/why"
    printf UNKNOWN
  fi
}

queue() {
  [[ -n $type ]] || die "--type: there is no slice $name in $zone, which shall be made?  such as v5litepod-16"
  tpus queued-resources create "$name" --node-id "$name" --accelerator-type "$type" --runtime-version "$runtime" \
    ${spot[@]+"${spot[@]}"} --async
}

# Deletes the slice and its place in the queue; gcloud waits for that, half an hour at most.
drop() { # queue's state
  if [[ $1 == ABSENT ]]; then tpus tpu-vm delete "$name"; else tpus queued-resources delete "$name" --force; fi
}

# Waits for a slice that is ready, and queues for one when there is none or when it was preempted.
await() {
  local begun=$SECONDS queued node asked='' unknown=0 refused=0
  if [[ -n $dry ]]; then
    queue
    return
  fi
  while true; do
    queued=$(state queued-resources state.state)
    node=$(state tpu-vm state)
    case $queued/$node in
      UNKNOWN/* | */UNKNOWN)
        ((++unknown < 10)) || die "gcloud failed ten times in a row: $(<"$scratch/why")"
        say "gcloud: $(head -n 1 "$scratch/why")"
        ;;
      ABSENT/READY | ACTIVE/READY) return ;;
      */STOPPED | */STOPPING)
        die "$name is $node: gcloud compute tpus tpu-vm start $name --zone $zone, or launch/tpu_vm.sh delete $name"
        ;;
      ABSENT/ABSENT)
        queue || ((++refused < 5)) || die "gcloud did not queue for $name: see above"
        asked=yes
        ;;
      FAILED/*)
        if [[ -n $asked ]]; then
          tpus queued-resources describe "$name" >&2
          say "the queue refused $name, see above; launch/tpu_vm.sh delete $name --zone $zone takes it away"
          exit 1
        fi
        drop "$queued" || true
        ;;
      SUSPENDING/* | DELETING/* | */DELETING) ;; # ends by itself
      SUSPENDED/* | */PREEMPTED | */TERMINATED | ACTIVE/ABSENT)
        say "$name is gone (queue: $queued, slice: $node); queueing for another"
        drop "$queued" || true
        ;;
    esac
    [[ $queued == UNKNOWN || $node == UNKNOWN ]] || unknown=0
    ((SECONDS - begun < patience)) ||
      die "no slice $name${type:+ of type $type} in $zone after $patience s (queue: $queued, slice: $node); --wait S waits longer"
    say "waiting for $name in $zone (queue: $queued, slice: $node)"
    sleep "$poll"
  done
}

# This folder as it is now; a slice that comes later gets the same.
pack() {
  run env COPYFILE_DISABLE=1 tar -czf "$scratch/jaxrl_llm.tar.gz" -C "$root" --exclude __pycache__ \
    pyproject.toml README.md LICENSE jaxrl_llm configs launch
}

setup() {
  local unpack="rm -rf jaxrl_llm/jaxrl_llm jaxrl_llm/configs && mkdir -p jaxrl_llm && tar -xzf jaxrl_llm.tar.gz -C jaxrl_llm"
  copy "$scratch/jaxrl_llm.tar.gz" jaxrl_llm.tar.gz || return
  if [[ -n $env_file ]]; then
    on all 'install -m 600 /dev/null .jaxrl_env' || return
    copy "$env_file" .jaxrl_env || return
  fi
  on all "$unpack && $(worker setup ${nfs:+"$nfs"})"
}

# Sets up a slice, which may be READY before its hosts answer.  Fails where it is no longer there.
setup_patiently() {
  local tries
  for ((tries = 1; tries <= 5; tries++)); do
    if setup; then return; fi
    say "setting up $name did not work, try $tries of 5"
    sleep "$poll"
  done
  [[ $(state tpu-vm state) != READY ]] || die "$name is READY and could not be set up: see above"
  return 1
}

# Waits for the end of the run; sets `code` to its exit code, or `lost` when the slice is.
follow() {
  local told misses=0 looks=0
  code='' lost=''
  while true; do
    sleep "$poll"
    if told=$(on 0 "$(worker status "$name")" 2>/dev/null) && [[ $told == *run=* ]]; then
      misses=0
      [[ $told != *run=running* ]] || continue
      # The first host has ended; the others get a little longer.
      told=$(on all "$(worker status "$name")" 2>/dev/null) || told=run=running
      if [[ $told != *run=running* ]] || ((++looks >= 10)); then
        code=$(worst "$told")
        return
      fi
    elif [[ ! $(state queued-resources state.state)/$(state tpu-vm state) =~ ^(ABSENT|ACTIVE)/READY$ ]]; then
      lost=yes
      return
    elif ((++misses >= 10)); then
      say "$name is READY and has not answered ten times in a row"
      code=43
      return
    fi
  done
}

# The worst of several exit codes.  A death is worse than 1, with which others may end because of it; one that runs on
# though others were stopped, and so have saved together with it, is stopped too.
worst() { # what `worker.sh status` said on all hosts
  local word code rank found=0 highest=0
  for word in $1; do
    code=${word#run=}
    [[ $code != "$word" ]] || continue # not ours
    [[ $code != running || $1 != *run=stopped* ]] || code=stopped
    case $code in
      0) rank=0 ;;
      stopped) rank=1 ;;
      42) rank=2 ;;
      1) rank=3 ;;
      43 | 134) rank=4 ;;
      none | running | 129 | 13? | 1[4-9]? | 2??) rank=5 code=137 ;;
      *) rank=6 ;;
    esac
    ((rank < highest)) || { highest=$rank found=$code; }
  done
  echo "$found"
}

run_to_end() {
  local failures=0 there='' fresh=yes
  trap 'say "the run on $name goes on: the same command follows it, launch/tpu_vm.sh stop $name ends it"; exit 130' INT
  pack
  await
  if [[ -n $dry ]]; then
    setup
    on all "$(worker start "$name" "$@")"
    on 0 "$(worker status "$name")"
    return
  fi
  while true; do
    there=$(on 0 "$(worker status "$name")" 2>/dev/null) || there=''
    if [[ $there == *run=running* ]]; then
      say "$name runs: following it, with the arguments that it was started with"
    else
      if [[ -n $fresh ]] || ! on all "$(worker ready)" 2>/dev/null; then
        setup_patiently || { await && continue; }
      fi
      on all "$(worker start "$name" "$@")" || say "not every host of $name has started"
    fi
    fresh=''
    follow
    if [[ -n $lost ]]; then
      failures=0
    else
      case $code in
        stopped) say "$name was stopped and has saved" && exit 42 ;;
        42 | 43 | 134 | 137) ;;
        *) exit "$code" ;;
      esac
      if ((++failures > restarts)); then
        say "exit code $code after $restarts restarts in a row: not again; see launch/tpu_vm.sh logs $name --zone $zone"
        exit "$code"
      fi
      say "exit code $code; restart $failures of $restarts"
    fi
    await
  done
}

delete() {
  local queued node
  if [[ -n $dry ]]; then
    drop UNKNOWN
    return
  fi
  queued=$(state queued-resources state.state)
  node=$(state tpu-vm state)
  case $queued/$node in
    ABSENT/ABSENT) say "there is no $name in $zone" ;;
    UNKNOWN/* | */UNKNOWN) die "gcloud: $(<"$scratch/why")" ;;
    *) drop "$queued" ;;
  esac
}

case $verb in
  create) tpus tpu-vm create "$name" --accelerator-type "$type" --version "$runtime" ${spot[@]+"${spot[@]}"} ;;
  queue) await ;;
  setup) pack && setup ;;
  run) run_to_end "$@" ;;
  status)
    [[ -n $dry ]] || echo "queue: $(state queued-resources state.state)   slice: $(state tpu-vm state)"
    on all "$(worker status "$name")"
    ;;
  logs) on "$worker" "$(worker logs "$name")" ;;
  stop) on all "$(worker stop "$name")" ;;
  delete) delete ;;
esac
