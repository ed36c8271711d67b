"""Copies stdin to a log file and rotates the file: FILE, FILE.1 … FILE.5, at most 10 MiB each."""

import os
import signal
import sys

MAX_BYTES = 10 * 1024 * 1024
KEEP = 5


def rotate(path):
    for number in range(KEEP, 0, -1):
        older = f"{path}.{number}"
        newer = f"{path}.{number - 1}" if number > 1 else path
        if os.path.exists(newer):
            os.replace(newer, older)


def main(path):
    # Only the end of the input ends this program, so that the last lines of the writer reach the log.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    log = open(path, "ab", buffering=0)
    for line in sys.stdin.buffer:
        if log.tell() + len(line) > MAX_BYTES:
            log.close()
            rotate(path)
            log = open(path, "ab", buffering=0)
        log.write(line)


main(sys.argv[1])
