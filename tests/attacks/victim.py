#!/usr/bin/env python3
"""The process that attacks.py attacks: holds a secret in its environment, its memory, its files and its services.

victim.py BASE prints one line of JSON about itself and serves until its standard input ends. All secrets are random."""

import ctypes
import json
import os
import socket
import sys
import threading

base = sys.argv[1]
secret = os.environ["SECRET"]
libc = ctypes.CDLL(None, use_errno=True)
world = {"pid": os.getpid(), "secret": secret, "base": base}


def put(name, mode=0o600):
    path = os.path.join(base, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(secret)
    os.chmod(path, mode)
    return path


def serve(sock, datagrams=False):
    def loop():
        while True:
            try:
                if datagrams:
                    _, sender = sock.recvfrom(64)
                    if sender:
                        sock.sendto(secret.encode(), sender)
                else:
                    connection, _ = sock.accept()
                    connection.sendall(secret.encode())
                    connection.close()
            except OSError:
                return

    threading.Thread(target=loop, daemon=True).start()


def listen(family, address, kind=socket.SOCK_STREAM):
    sock = socket.socket(family, kind)
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen(8)
    serve(sock, kind == socket.SOCK_DGRAM)
    return sock.getsockname()


world["key"] = put("home/.ssh/id_ed25519")
world["other"] = put("attempts/other/tree/app.py")
world["shared"] = put("public/file", 0o644)
world["open_file"] = os.open(world["key"], os.O_RDONLY)
memory = ctypes.create_string_buffer(secret.encode())
world["address"] = ctypes.addressof(memory)
world["tcp"] = listen(socket.AF_INET, ("127.0.0.1", 0))[1]
world["udp"] = listen(socket.AF_INET, ("127.0.0.1", 0), socket.SOCK_DGRAM)[1]
try:
    world["ipv6"] = listen(socket.AF_INET6, ("::1", 0))[1]
except OSError:
    world["ipv6"] = None
world["socket"] = os.path.join(base, "service.sock")
listen(socket.AF_UNIX, world["socket"])
world["abstract"] = "victim-" + secret
listen(socket.AF_UNIX, "\0" + world["abstract"])
world["datagrams"] = "victim-datagrams-" + secret
listen(socket.AF_UNIX, "\0" + world["datagrams"], socket.SOCK_DGRAM)
IPC_CREAT = 0o1000
world["segment"] = int(secret[:7], 16)
segment = libc.shmget(world["segment"], 4096, IPC_CREAT | 0o600)
print(json.dumps(world), flush=True)
sys.stdin.read()
libc.shmctl(segment, 0, None)
