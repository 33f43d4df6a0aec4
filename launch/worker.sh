#!/usr/bin/env bash
# One host of a TPU slice: installs, runs and stops jaxrl-llm there.  tpu_vm.sh calls it on all of them.
#
#   worker.sh setup [HOST:/DIR]   install; mount the directory at /shared
#   worker.sh ready               whether that was done
#   worker.sh start RUN ARGS      jaxrl-llm ARGS in the background, whatever becomes of the connection
#   worker.sh status RUN          run=running, run=CODE, run=stopped (42 after `stop`), or run=none
#   worker.sh logs RUN            what it wrote, and goes on to write
#   worker.sh stop RUN            SIGTERM: it saves and ends with 42
set -euo pipefail
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
ready=$code/.ready
venv=~/jaxrl_venv

setup() {
  rm -f "$ready"
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --quiet uv
  [[ -x $venv/bin/python ]] || ~/.local/bin/uv venv --quiet --python 3.12 "$venv"
  timeout 1200 ~/.local/bin/uv pip install --quiet --python "$venv/bin/python" --reinstall-package jaxrl-llm "${code}[tpu]"
  if [[ -n ${1-} ]] && ! mountpoint --quiet /shared; then
    command -v mount.nfs >/dev/null || sudo apt-get -o DPkg::Lock::Timeout=300 install --yes --quiet nfs-common
    sudo mkdir -p /shared
    sudo timeout 120 mount -t nfs "$1" /shared
    [[ -w /shared ]] || sudo chmod 1777 /shared # a new share is root's alone
  fi
  touch "$ready"
}

# The process that is meant, and not another one that got its number after a reboot: of the run, or the leader around it.
ours() { [[ -s $folder/$1 ]] && tr '\0' ' ' 2>/dev/null <"/proc/$(<"$folder/$1")/cmdline" | grep -q jaxrl-llm; }
alive() { ours pid; }

wait_end() { # seconds
  local i
  for ((i = 0; i < $1 * 10; i++)); do
    alive || return 0
    sleep 0.1
  done
  return 1
}

start() {
  local i
  if alive; then # what is left of a run whose other hosts have died
    kill -TERM "$(<"$folder/pid")" || true
    wait_end 60 || kill -KILL -- "-$(<"$folder/leader")" || true
  fi
  mkdir -p "$folder"
  rm -f "$folder/exit" "$folder/stopped" "$folder/pid"
  read_env ~/.jaxrl_env
  [[ ! -d /shared ]] || export XDG_CACHE_HOME=${XDG_CACHE_HOME:-/shared/.cache}
  cd "$code" # so that a config's path means what it means where it was typed
  # shellcheck disable=SC2016  # for the inner shell
  PATH=$venv/bin:$PATH setsid nohup bash -c '
    folder=$1; shift
    echo $$ >"$folder/leader"
    jaxrl-llm "$@" & echo $! >"$folder/pid"
    code=0; wait $! || code=$?
    echo "$code" >"$folder/exit"' worker "$folder" "$@" >>"$folder/log" 2>&1 </dev/null &
  for ((i = 0; i < 100; i++)); do
    if [[ -s $folder/pid ]]; then return; fi
    sleep 0.1
  done
  echo "worker.sh: $(hostname): no process after 10 s, see $folder/log" >&2
  exit 1
}

# Lines of NAME=value, taken as they are: no shell reads them.
read_env() { # file
  local line
  [[ -r $1 ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    [[ ! $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || export "${line?}"
  done <"$1"
}

status() {
  local ended=none
  if alive || ours leader; then # which writes the exit code, then ends
    ended=running
  elif [[ -s $folder/exit ]]; then
    ended=$(<"$folder/exit")
    [[ $ended != 42 || ! -e $folder/stopped ]] || ended=stopped
  fi
  echo "run=$ended" # gcloud writes lines of its own between those of several hosts
}

stop() {
  if ! alive; then
    echo "worker.sh: $(hostname): nothing runs" >&2
    return
  fi
  touch "$folder/stopped"
  kill -TERM "$(<"$folder/pid")"
  wait_end 600 || { echo "worker.sh: $(hostname): still saving after 600 s" >&2 && exit 1; }
}

verb=${1-}
shift || true
case $verb in
  start | status | logs | stop)
    folder=~/jaxrl_runs/${1:?a run}
    shift
    ;;
esac
case $verb in
  setup) setup "$@" ;;
  ready) [[ -e $ready ]] ;;
  start) start "$@" ;;
  status) status ;;
  logs) exec tail -n 200 -F "$folder/log" ;;
  stop) stop ;;
  *) echo "worker.sh: no verb ${verb:-(nothing)}" >&2 && exit 2 ;;
esac
