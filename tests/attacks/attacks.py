#!/usr/bin/env python3
"""Attempts of an untrusted program to leave its sandbox.

attacks.py NAME makes one of them. Exit status 0: it succeeded. 1: it failed. 2: this machine has no target for it.
attacks.py --list prints the names. $WORLD is what victim.py printed, $TREE the worktree.
Each is harmless: secrets are random, and what is changed belongs to the test."""

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback

ATTACKS = {}
WORLD = json.loads(os.environ.get("WORLD", "{}"))
SECRET = WORLD.get("secret", "").encode()
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
CALLS = {"io_uring_setup": (425, 425), "bpf": (321, 280), "add_key": (248, 217), "userfaultfd": (323, 282), "clone": (56, 220)}
CALLS |= {"process_vm_readv": (310, 270), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "perf_event_open": (298, 241)}


class NoTarget(Exception):
    pass


def attack(function):
    ATTACKS[function.__name__] = function
    return function


def call(name, *arguments):
    number = CALLS[name][0 if X86 else 1]
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read(path):
    with open(path, "rb") as file:
        return SECRET in file.read()


def ask(family, address, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as sock:
        sock.settimeout(2)
        sock.connect(address)
        if kind == socket.SOCK_DGRAM:
            sock.send(b"?")
        return SECRET in sock.recv(256)


@attack
def read_a_key_in_the_home_directory():
    return read(WORLD["key"])


@attack
def read_the_tree_of_another_attempt():
    return read(WORLD["other"])


@attack
def read_the_password_hashes():
    with open("/etc/shadow", "rb") as file:
        return len(file.read(1)) == 1


@attack
def change_a_file_without_a_trace():
    """EXT4_IOC_MOVE_EXT gives a file the blocks of another one, and changes none of its times."""
    files = []
    for name in ("kept", "evil"):
        with open(name, "wb") as file:
            file.write(name.encode() * 2048)
        files.append(os.open(name, os.O_RDWR))
        os.fsync(files[-1])
        os.posix_fadvise(files[-1], 0, 0, os.POSIX_FADV_DONTNEED)
    kept, evil = files
    before = os.fstat(kept)
    try:
        for _ in range(100):
            order = bytearray(struct.pack("IIQQQQ", 0, kept, 0, 0, 2, 0))
            try:
                fcntl.ioctl(evil, 0xC028660F, order)
                break
            except OSError as error:
                if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
                    raise NoTarget("the file system is not ext4")
                if error.errno != errno.EBUSY:
                    raise
                time.sleep(0.05)
        after = os.fstat(kept)
        same = (before.st_ctime_ns, before.st_size) == (after.st_ctime_ns, after.st_size)
        return same and os.pread(kept, 4, 0) != b"kept"
    finally:
        for file in files:
            os.close(file)
        for name in ("kept", "evil"):
            os.unlink(name)


@attack
def read_through_a_link():
    os.symlink(WORLD["key"], "link")
    try:
        return read("link")
    finally:
        os.unlink("link")


@attack
def bring_a_file_in_by_a_hard_link():
    os.link(WORLD["key"], "hard")
    try:
        return read("hard")
    finally:
        os.unlink("hard")


@attack
def write_outside_of_the_worktree():
    with open(os.path.join(WORLD["base"], "home/.bashrc"), "a") as file:
        file.write("# changed\n")
    return True


@attack
def move_the_worktree_away():
    tree = os.environ["TREE"]
    os.chdir("/")
    os.rename(tree, tree + "-moved")
    os.rename(tree + "-moved", tree)
    return True


@attack
def change_the_mode_of_a_file_outside():
    os.chmod(WORLD["shared"], 0o644)
    return True


@attack
def change_the_mode_of_a_device():
    os.chmod("/dev/null", os.stat("/dev/null").st_mode & 0o7777)
    return True


@attack
def see_whether_a_file_outside_exists():
    os.stat(WORLD["shared"])
    return True


@attack
def read_the_environment_of_a_process():
    return read(f"/proc/{WORLD['pid']}/environ")


@attack
def read_the_memory_of_a_process():
    buffer = ctypes.create_string_buffer(len(SECRET))
    local = struct.pack("QQ", ctypes.addressof(buffer), len(SECRET))
    remote = struct.pack("QQ", WORLD["address"], len(SECRET))
    call("process_vm_readv", WORLD["pid"], local, 1, remote, 1, 0)
    return buffer.raw == SECRET


@attack
def read_the_memory_of_a_process_as_a_file():
    with open(f"/proc/{WORLD['pid']}/mem", "rb", buffering=0) as file:
        file.seek(WORLD["address"])
        return file.read(len(SECRET)) == SECRET


@attack
def trace_a_process():
    PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
    if libc.ptrace(PTRACE_SEIZE, WORLD["pid"], None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    libc.ptrace(PTRACE_DETACH, WORLD["pid"], None, None)
    return True


@attack
def take_an_open_file_of_a_process():
    process = call("pidfd_open", WORLD["pid"], 0)
    file = call("pidfd_getfd", process, WORLD["open_file"], 0)
    return os.pread(file, 64, 0) == SECRET


@attack
def look_through_the_root_of_a_process():
    return read(f"/proc/{WORLD['pid']}/root{WORLD['key']}")


@attack
def signal_a_process():
    os.kill(WORLD["pid"], signal.SIGCONT)
    return True


@attack
def change_the_priority_of_a_process():
    os.setpriority(os.PRIO_PROCESS, WORLD["pid"], os.getpriority(os.PRIO_PROCESS, WORLD["pid"]))
    return True


@attack
def connect_to_another_port():
    return ask(socket.AF_INET, ("127.0.0.1", WORLD["tcp"]))


@attack
def connect_over_ipv6():
    if not WORLD["ipv6"]:
        raise NoTarget("no IPv6")
    return ask(socket.AF_INET6, ("::1", WORLD["ipv6"]))


@attack
def send_a_datagram():
    return ask(socket.AF_INET, ("127.0.0.1", WORLD["udp"]), socket.SOCK_DGRAM)


@attack
def connect_to_a_socket_in_the_file_system():
    return ask(socket.AF_UNIX, WORLD["socket"])


@attack
def connect_to_an_abstract_socket():
    return ask(socket.AF_UNIX, "\0" + WORLD["abstract"])


@attack
def send_to_an_abstract_socket_through_a_pair():
    first, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return first.sendto(b"?", "\0" + WORLD["datagrams"]) == 1


@attack
def open_a_packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
    return True


@attack
def attach_to_shared_memory():
    return libc.shmget(WORLD["segment"], 4096, 0) >= 0


@attack
def make_a_namespace():
    CLONE_NEWUSER = 0x10000000
    return libc.unshare(CLONE_NEWUSER) == 0


@attack
def make_a_namespace_in_a_child():
    CLONE_NEWUSER = 0x10000000
    child = call("clone", CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True


@attack
def open_an_io_uring():
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    return True


@attack
def load_a_kernel_program():
    # The wrong size of an empty array: the kernel has looked at it if it says so.
    try:
        call("bpf", 0, ctypes.create_string_buffer(128), 128)
    except OSError as error:
        return error.errno == errno.EINVAL
    return True


@attack
def use_the_keyring():
    KEY_SPEC_PROCESS_KEYRING = -2
    call("add_key", b"user", b"attack", b"x", 1, KEY_SPEC_PROCESS_KEYRING)
    return True


@attack
def change_a_setting_of_the_kernel():
    path = "/proc/sys/kernel/core_pattern"
    with open(path) as file:
        now = file.read()
    with open(path, "w") as file:
        file.write(now)
    return True


@attack
def write_to_the_process_file_system():
    with open("/proc/self/coredump_filter", "w") as file:
        file.write("0x0")
    return True


@attack
def mount_a_file_system():
    os.makedirs("mounted", exist_ok=True)
    try:
        if libc.mount(b"none", b"mounted", b"tmpfs", 0, None) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        libc.umount(b"mounted")
        return True
    finally:
        os.rmdir("mounted")


@attack
def make_a_device():
    os.mknod("device", 0o600 | 0o020000, os.makedev(1, 3))
    try:
        with open("device", "w") as file:
            file.write("x")
        return True
    finally:
        os.unlink("device")


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(ATTACKS))
        return 0
    try:
        succeeded = ATTACKS[sys.argv[1]]()
        print("succeeded" if succeeded else "had no effect")
        return 0 if succeeded else 1
    except NoTarget as reason:
        print(reason)
        return 2
    except OSError as error:
        print(f"failed: {error}")
        return 1
    except Exception:
        # A broken script is no attack that failed.
        traceback.print_exc()
        return 3


if __name__ == "__main__":
    sys.exit(main())
