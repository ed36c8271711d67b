# shellcheck shell=bash
# What every script here shares: where things are, how they speak, how they fail.

# A failure inside $(…) ends the script too.
shopt -s inherit_errexit

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"
# Everything that the scripts make lies below it, except cargo's target directory. Git ignores it.
# shellcheck disable=SC2034 # used by the scripts that source this file
DATA="$ROOT/.pool"

# Progress goes to stderr: stdout is for values that other programs read.
say() { printf '%s\n' "$*" >&2; }
step() { printf '\n==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Without the user's site packages and environment: nothing there is needed, and it starts faster.
py() { python3 -IS "$@"; }

# The value of an option that needs one: `need_value --data "$@"` with the option still at $1 of the caller.
need_value() {
    if [ $# -lt 3 ] || [ -z "$3" ]; then
        fail "$1 needs a value"
    fi
    printf '%s\n' "$3"
}

# The same for a file that must exist; prints its absolute path.
need_file() {
    local file
    file="$(need_value "$@")"
    [ -f "$file" ] || fail "$1: there is no file $file"
    realpath "$file"
}

# The comment block at the head of a script is its help text.
usage() { sed -n '2,/^[^#]/{s/^# \{0,1\}//;/^set -/d;p;}' "$0"; }
