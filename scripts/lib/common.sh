# shellcheck shell=bash
# Shared by all scripts: directories, messages, failures, options.

# A failure inside $(…) ends the script, too.
shopt -s inherit_errexit

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"
# The scripts put all their files below it, except cargo's target directory. Git ignores it.
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

# Runs Python without the user's site packages and environment, which the scripts do not need; it starts faster.
py() { python3 -IS "$@"; }

# PyYAML comes with aider; Debian's package is python3-yaml.
python_with_yaml() {
    local candidate
    for candidate in "$DATA/aider/bin/python" /usr/bin/python3 python3; do
        if "$candidate" -c 'import yaml' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    fail "no Python with PyYAML: install python3-yaml, or run scripts/test once"
}

# Refuses a wrong command line before anything is done: exit status 2.
refuse() {
    printf '%s: %s (see %s --help)\n' "${0##*/}" "$*" "$0" >&2
    exit 2
}

# Prints the value of an option: `need_value --data "$@"`, while the option is still $1 of the caller.
need_value() {
    if [ $# -lt 3 ] || [ -z "$3" ]; then
        refuse "$1 needs a value"
    fi
    printf '%s\n' "$3"
}

# Prints the absolute path of a file that an option names; the file must exist.
need_file() {
    local file
    file="$(need_value "$@")"
    [ -f "$file" ] || refuse "$1: no file $file"
    realpath "$file"
}

# Prints the help text of a script: the comment block at its head. It needs no program but the shell.
usage() {
    local line
    {
        read -r line
        while IFS= read -r line && [ "${line#\#}" != "$line" ]; do
            line="${line#\#}"
            printf '%s\n' "${line# }"
        done
    } <"$0"
}

# help_only "$@" : if --help or -h is an argument before `--`, prints the help text and exits.
help_only() {
    local word
    for word in "$@"; do
        case "$word" in
        --) return ;;
        -h | --help)
            usage
            exit 0
            ;;
        esac
    done
}
