# shellcheck shell=bash
# What the launchers share.  To be sourced.

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

say() { printf '%s: %s\n' "${0##*/}" "$1" >&2; }

# A label by RFC 1123 that begins with a letter, as names of hosts and services have to, with room for what the
# clouds append to it.
check_name() { # name
  [[ ${1-} =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    die "${1:-(no name)}: not a name for a run: up to 40 of a-z, 0-9 and -, a letter first, no - last"
}

check_whole() { # option, value
  [[ $2 =~ ^[0-9]{1,9}$ ]] || die "$1 $2: expected a whole number"
}

need() { # command, where to get it
  command -v "$1" >/dev/null || die "$1 is not on PATH: $2"
}

# Words as one line that bash reads back as the same words.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# Runs a command; with --dry-run prints it.
dry=''
run() {
  if [[ -n $dry ]]; then printf '%s\n' "$(quoted "$@")"; else "$@"; fi
}
