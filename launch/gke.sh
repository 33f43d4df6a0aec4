#!/usr/bin/env bash
# A run as a JobSet on Kubernetes: fills in gke/tpu.yaml or gke/gpu.yaml and applies it.  See --help.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=launch/common.sh
. "$root/launch/common.sh"

usage() {
  cat <<'TEXT'
usage: launch/gke.sh NAME --tpu KIND:TOPOLOGY | --gpu TYPE  --image IMAGE --volume CLAIM [options] -- ARGS of jaxrl-llm

Starts `jaxrl-llm ARGS` on every host, in /shared.  After exit codes 42, 43 and 134, a kill or an eviction all pods
start again and go on from the newest checkpoint; 2 and 3 end it.

  --tpu K:T        such as v5e:4x4, v5p:2x2x4, v6e:16x16, v4:2x2x4
  --slices N       so many of them (1)
  --chips C        of a host (4; 1 of 1x1)
  --gpu TYPE       such as nvidia-h100-80gb; "any" where the nodes have no label of GKE
  --nodes N        so many of them (1)
  --gpus G         of a node (8)
  --image I        made by launch/Dockerfile.tpu or .gpu
  --volume CLAIM   a PersistentVolumeClaim that all hosts can write, mounted at /shared
  --secret NAME    a Secret, whose keys are variables of the run
  --spot           on spot nodes
  --restarts R     before it fails (100)
  --wait S         seconds that pods wait for the others' nodes before they give up (86400)
  --grace S        seconds to save after a SIGTERM (300)
  --namespace N    (kubectl's)
  --dry-run        print the YAML
TEXT
}

case ${1-} in --help | -h) usage && exit 0 ;; esac
name=${1-}
check_name "$name"
shift
tpu='' slices=1 chips='' gpu='' nodes=1 gpus=8 image='' volume='' secret='' spot='' restarts=100 patience=86400 grace=300
where=()
while (($#)); do
  case $1 in
    --spot) spot=yes ;;
    --dry-run) dry=yes ;;
    --) shift && break ;;
    --tpu | --slices | --chips | --gpu | --nodes | --gpus | --image | --volume | --secret | --restarts | --wait | --grace | --namespace)
      [[ -n ${2-} ]] || die "$1: its value is missing"
      case $1 in --slices | --chips | --nodes | --gpus | --restarts | --wait | --grace) check_whole "$1" "$2" ;; esac
      case $1 in --slices | --chips | --nodes | --gpus | --wait) ((10#$2 > 0)) || die "$1 0: expected more" ;; esac
      case $1 in
        --tpu) tpu=$2 ;;
        --slices) slices=$2 ;;
        --chips) chips=$2 ;;
        --gpu) gpu=$2 ;;
        --nodes) nodes=$2 ;;
        --gpus) gpus=$2 ;;
        --image) image=$2 ;;
        --volume) volume=$2 ;;
        --secret) secret=$2 ;;
        --restarts) restarts=$2 ;;
        --wait) patience=$2 ;;
        --grace) grace=$2 ;;
        --namespace) where=(--namespace "$2") ;;
      esac
      shift
      ;;
    *) die "$1: not an option; --help names them" ;;
  esac
  shift
done
(($#)) || die "nothing to run: launch/gke.sh $name ... -- train CONFIG"
[[ -n $tpu$gpu ]] || die '--tpu KIND:TOPOLOGY or --gpu TYPE: on what?'
[[ -z $tpu || -z $gpu ]] || die '--tpu and --gpu: one of them'
[[ -n $image ]] || die '--image: which one?  launch/README.md says how to make it'
[[ -n $volume ]] || die '--volume: which claim?  launch/README.md says how to make it'
for word in "$volume" ${secret:+"$secret"} ${gpu:+"$gpu"}; do
  [[ $word =~ ^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$ ]] || die "$word: not a name that Kubernetes takes"
done
[[ -n $dry ]] || need kubectl https://kubernetes.io/docs/tasks/tools

# A word as JSON, which is YAML.
json() {
  local word=$1 escaped='' i c
  for ((i = 0; i < ${#word}; i++)); do
    c=${word:i:1}
    case $c in
      '"' | \\) escaped+=\\$c ;;
      [[:cntrl:]]) printf -v c '\\u%04x' "'$c" && escaped+=$c ;;
      *) escaped+=$c ;;
    esac
  done
  printf '"%s"' "$escaped"
}

# Words as a JSON list.  Kubernetes replaces $(NAME) in arguments, and takes $$ for $.
json_list() {
  local word list=''
  for word in "$@"; do list+=", $(json "${word//\$/\$\$}")"; done
  printf '[%s]' "${list:2}"
}

selector='' tolerations=''
if [[ -n $tpu ]]; then
  template=tpu topology=${tpu#*:}
  case ${tpu%%:*} in
    v4) kind='tpu-v4-podslice' ;;
    v5e) kind='tpu-v5-lite-podslice' ;;
    v5p) kind='tpu-v5p-slice' ;;
    v6e) kind='tpu-v6e-slice' ;;
    *) die "--tpu $tpu: expected v4, v5e, v5p or v6e, then : and a topology such as 4x4" ;;
  esac
  [[ $topology =~ ^[1-9][0-9]{0,2}x[1-9][0-9]{0,2}(x[1-9][0-9]{0,2})?$ ]] ||
    die "--tpu $tpu: expected a topology such as v5e:4x4 or v5p:2x2x4"
  total=$((${topology//x/*}))
  : "${chips:=$((total < 4 ? total : 4))}"
  ((total % chips == 0)) || die "--tpu $tpu: $total chips are no whole number of hosts with $chips"
  hosts=$((total / chips))
  selector="\"cloud.google.com/gke-tpu-accelerator\": \"$kind\", \"cloud.google.com/gke-tpu-topology\": \"$topology\""
  tolerations='{"key": "google.com/tpu", "operator": "Exists"}'
else
  template=gpu hosts=$nodes
  [[ $gpu == any ]] || selector="\"cloud.google.com/gke-accelerator\": \"$gpu\""
  tolerations='{"key": "nvidia.com/gpu", "operator": "Exists"}'
fi
if [[ -n $spot ]]; then
  selector+="${selector:+, }\"cloud.google.com/gke-spot\": \"true\""
  tolerations+=', {"key": "cloud.google.com/gke-spot", "operator": "Exists"}'
fi

yaml=$(<"$root/launch/gke/$template.yaml")
fill() { yaml=${yaml//"<$1>"/"$2"}; }
fill NAME "$name"
fill SLICES "$slices"
fill HOSTS "$hosts"
fill CHIPS "$chips"
fill GPUS "$gpus"
fill VOLUME "$volume"
fill RESTARTS "$restarts"
fill WAIT "$patience"
fill GRACE "$grace"
fill SELECTOR "{$selector}"
fill TOLERATIONS "[$tolerations]"
fill SECRET "${secret:+{\"secretRef\": {\"name\": \"$secret\"\}\}}"
fill IMAGE "$(json "$image")"
fill ARGS "$(json_list "$@")" # last, so that nothing is filled into it

if [[ -n $dry ]]; then
  printf '%s\n' "$yaml"
  printf '# with: %s\n' "$(quoted kubectl apply ${where[@]+"${where[@]}"} -f -)"
else
  printf '%s\n' "$yaml" | kubectl apply ${where[@]+"${where[@]}"} -f -
fi
