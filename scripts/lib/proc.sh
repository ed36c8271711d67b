# shellcheck shell=bash
# Starts and stops background processes by pid file, never by name.
#
# A pid file holds "PID START"; START is the kernel's start time of the process. It tells our process from a later one with
# the same pid, also after a reboot.

LIB="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"

# Prints the start time of a process; nothing if the process is gone or a zombie.
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

# Prints the pid if the process of this pid file is alive, else returns 1.
proc_alive() {
    local pid start
    [ -f "$1" ] && read -r pid start <"$1" && [ -n "$start" ] || return 1
    [ "$(proc_start_time "$pid")" = "$start" ] || return 1
    printf '%s\n' "$pid"
}

# proc_spawn PIDFILE LOG COMMAND… : starts the command in its own session, so that Ctrl-C in this terminal does not reach
# it. The child writes the pid file before it execs the command, so an interrupted script leaves no unknown process behind.
# Descriptors 8 and 9 hold the locks of these scripts, which the command must not inherit.
# If LOG begins with |, rotate_log.py writes the log and rotates it.
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
    # Keeps the shell from reporting the end of the job.
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

# proc_stop PIDFILE [SECONDS…] : for each number sends SIGTERM and waits up to SECONDS; then sends SIGKILL.
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
