# shellcheck shell=bash
# Background processes by pid file, and by nothing else: never by name.
#
# A pid file holds "PID START", START being the kernel's start time of the process: a pid that was given to another
# process since (or after a reboot) is not taken for ours.

LIB="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"

# Start time of a process, empty when it is gone or only a zombie that nobody has waited for.
proc_start_time() {
    local stat state rest
    stat="$(cat "/proc/$1/stat" 2>/dev/null)" || return 0
    # The second field is the name in parentheses, which may contain anything; the others follow the last one.
    rest="${stat##*) }"
    state="${rest%% *}"
    [ "$state" != Z ] && [ "$state" != X ] || return 0
    # shellcheck disable=SC2086 # splitting into fields is the purpose
    set -- $rest
    printf '%s\n' "${20}"
}

# Prints the pid when the process of this pid file is alive.
proc_alive() {
    local pid start
    [ -f "$1" ] && read -r pid start <"$1" && [ -n "$start" ] || return 1
    [ "$(proc_start_time "$pid")" = "$start" ] || return 1
    printf '%s\n' "$pid"
}

# proc_spawn PIDFILE LOG COMMAND… : starts it in a session of its own, so that a Ctrl-C in this terminal does not
# reach it. The child writes the pid file before it becomes the command: interrupting us leaves nothing unknown behind.
# Descriptors 8 and 9 hold the locks of these scripts, which must not outlive them.
# A LOG that begins with | is a rotated one, written by a small reader of the command's output.
proc_spawn() {
    local pid_file="$1" log="$2" deadline=$((SECONDS + 10))
    shift 2
    rm -f "$pid_file"
    # shellcheck disable=SC2016 # expanded by the child
    setsid bash -c '
        . "$1/proc.sh"
        pid_file="$2" log="$3"
        shift 3
        printf "%s %s\n" "$$" "$(proc_start_time "$$")" >"$pid_file.new" && mv "$pid_file.new" "$pid_file"
        if [ "${log#|}" != "$log" ]; then
            exec "$@" > >(exec python3 "$LIB/rotate_log.py" "${log#|}") 2>&1
        fi
        exec "$@" >>"$log" 2>&1
    ' proc_spawn "$LIB" "$pid_file" "$log" "$@" </dev/null >/dev/null 2>&1 8>&- 9>&- &
    # The shell shall not report its end as that of a job.
    disown $!
    until [ -s "$pid_file" ]; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.02
    done
}

# proc_wait_gone PIDFILE SECONDS
proc_wait_gone() {
    local deadline=$((SECONDS + $2))
    while proc_alive "$1" >/dev/null; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# proc_stop PIDFILE SECONDS [SECONDS…] : SIGTERM and that long to go, once for each number, then SIGKILL.
proc_stop() {
    local pid_file="$1" pid seconds
    shift
    for seconds in "$@"; do
        pid="$(proc_alive "$pid_file")" || break
        kill -TERM "$pid" 2>/dev/null || true
        proc_wait_gone "$pid_file" "$seconds" && break
    done
    if pid="$(proc_alive "$pid_file")"; then
        kill -KILL "$pid" 2>/dev/null || true
        proc_wait_gone "$pid_file" 10 || return 1
    fi
    rm -f "$pid_file"
}
