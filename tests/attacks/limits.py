#!/usr/bin/env python3
"""Attempts of an untrusted program to use more memory, processes or disk than a run may.

limits.py NAME SECONDS makes one of them and keeps what it has taken for that long. Exit status 0: it has kept it. 1: the sandbox
lets nobody try. limits.py --list prints the names, each with the limit that it is about."""

import os
import sys
import tempfile
import time

MIB = 1 << 20
ATTACKS = {}


def attack(limit):
    def add(function):
        ATTACKS[function.__name__] = (limit, function)
        return function

    return add


def fill(file, size):
    for _ in range(size):
        file.write(os.urandom(MIB))
    file.flush()


@attack("memory")
def take_memory():
    return b"x" * (100 * MIB)


@attack("memory")
def take_memory_in_a_process_that_lost_its_parents():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            kept = b"x" * (100 * MIB)
            time.sleep(3600)
            print(len(kept))
        os._exit(0)
    os.wait()


@attack("memory")
def take_memory_in_a_file_that_no_process_has_mapped():
    file = open(os.memfd_create("kept"), "wb")
    fill(file, 100)
    return file


@attack("memory")
def take_memory_in_a_file_without_a_name():
    file = open("/dev/shm/kept", "wb")
    os.unlink("/dev/shm/kept")
    fill(file, 100)
    return file


@attack("memory")
def take_memory_in_a_directory_that_lies_in_memory():
    with open("/dev/shm/kept", "wb") as file:
        fill(file, 100)


@attack("processes")
def start_processes():
    for _ in range(40):
        if os.fork() == 0:
            time.sleep(3600)


@attack("processes")
def start_threads():
    import threading

    for _ in range(40):
        threading.Thread(target=time.sleep, args=[3600], daemon=True).start()


@attack("disk")
def write_a_file():
    with open("kept", "wb") as file:
        fill(file, 32)


@attack("disk")
def write_a_file_before_anybody_looks():
    # The kernel gives the space at once, and nothing else happens before.
    file = os.open("kept", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(file, 0, 32 * MIB)


@attack("disk")
def write_into_a_directory_that_nobody_may_read():
    os.mkdir("closed")
    os.mkdir("closed/inner")
    with open("closed/inner/kept", "wb") as file:
        os.chmod("closed/inner", 0)
        os.chmod("closed", 0)
        fill(file, 32)


@attack("disk")
def write_into_a_directory_that_can_be_listed_only():
    os.mkdir("listed")
    with open("listed/kept", "wb") as file:
        os.chmod("listed", 0o400)
        fill(file, 32)


@attack("disk")
def write_below_the_longest_path():
    for _ in range(30):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    with open("kept", "wb") as file:
        fill(file, 32)


@attack("disk")
def write_to_a_file_without_a_name():
    file = open("nameless", "wb")
    os.unlink("nameless")
    fill(file, 32)
    return file


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(f"{name} {limit}" for name, (limit, _) in ATTACKS.items()))
        return 0
    os.chdir(tempfile.mkdtemp(dir="."))
    try:
        kept = ATTACKS[sys.argv[1]][1]()
    except OSError as error:
        print(f"failed: {error}")
        return 1
    print("taken", flush=True)
    time.sleep(float(sys.argv[2]))
    del kept
    # Children that still sleep do not hold this process up.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
