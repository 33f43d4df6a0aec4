#!/usr/bin/env bash
# A run as a workload of xpk: see --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

usage() {
  cat <<'TEXT'
usage: launch/xpk.sh NAME OPTIONS of `xpk workload create` [--dry-run] -- ARGS of jaxrl-llm

  launch/xpk.sh my-run --cluster C --zone Z --tpu-type v5litepod-16 --docker-image IMAGE -- train CONFIG workdir=/shared/my-run

Adds to the options: --workload, --command, restarts after 43 too (xpk's own: 42 and all deaths by a signal; 100 of
them), and 300 s to save after a SIGTERM.  Secrets: --env-file FILE.  With --dry-run, prints the call of xpk.
TEXT
}

case ${1-} in --help | -h) usage && exit 0 ;; esac
check_name "${1-}"
options=(--workload "$1" --max-restarts 100 --restart-on-exit-codes 43 --termination-grace-period-seconds 300)
shift
while (($#)); do
  case $1 in
    --) break ;;
    --dry-run) dry=yes ;;
    --workload | --workload=* | --command | --command=*) die "$1: this script sets it" ;;
    *) options+=("$1") ;; # a later one of the same name wins
  esac
  shift
done
(($# > 1)) || die 'nothing to run: launch/xpk.sh NAME OPTIONS -- train CONFIG'
shift
[[ -n $dry ]] || need xpk 'pip install xpk'
# In place of xpk's shell, so that a SIGTERM reaches it; the other hosts' nodes may have to be made first.
# shellcheck disable=SC2016  # for the shell in the pod
command='JAXRL_JOIN_TIMEOUT=${JAXRL_JOIN_TIMEOUT:-3600} exec jaxrl-llm '$(quoted "$@")
run xpk workload create "${options[@]}" --command "$command"
