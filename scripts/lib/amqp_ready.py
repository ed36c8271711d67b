"""Waits until a client can log in to a RabbitMQ node: amqp_ready.py PID SECONDS, with AMQP_URL in the environment.

The node opens its port before its virtual host is up, so only a login that reaches `connection.open-ok` shows that clients
can work. Exit status: 0 = ready, 1 = not ready in time, 2 = the process PID is gone, 3 = access refused.
"""

import os
import signal
import socket
import struct
import sys
import time
import urllib.parse

CONNECTION = 10
START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK, CLOSE = 11, 30, 31, 40, 41, 50


class Refused(Exception):
    pass


def short(text):
    return struct.pack(">B", len(text)) + text


def long(text):
    return struct.pack(">I", len(text)) + text


def send(sock, method, body=b""):
    payload = struct.pack(">HH", CONNECTION, method) + body
    sock.sendall(struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce")


def read_exactly(sock, size):
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        if not chunk:
            raise ConnectionError("closed by the broker")
        data += chunk
    return data


def receive(sock):
    """The method number of the next frame and its arguments."""
    _, _, size = struct.unpack(">BHI", read_exactly(sock, 7))
    payload = read_exactly(sock, size + 1)
    return struct.unpack(">HH", payload[:4])[1], payload[4:-1]


def log_in(url):
    user, password = urllib.parse.unquote(url.username or "guest"), urllib.parse.unquote(url.password or "guest")
    vhost = urllib.parse.unquote(url.path[1:]) or "/"
    with socket.create_connection((url.hostname, url.port or 5672), timeout=5) as sock:
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        receive(sock)
        plain = b"\x00" + user.encode() + b"\x00" + password.encode()
        send(sock, START_OK, long(b"") + short(b"PLAIN") + long(plain) + short(b"en_US"))
        try:
            method, arguments = receive(sock)
        except ConnectionError as closed:
            raise Refused("the broker does not accept this user and password") from closed
        if method != TUNE:
            raise Refused("the broker does not accept this user and password")
        send(sock, TUNE_OK, arguments[:8])
        send(sock, OPEN, short(vhost.encode()) + short(b"") + b"\x00")
        if receive(sock)[0] != OPEN_OK:
            raise ConnectionError("the virtual host is not there yet")
        send(sock, CLOSE, struct.pack(">H", 200) + short(b"") + struct.pack(">HH", 0, 0))
        receive(sock)


def main(pid, seconds):
    url = urllib.parse.urlsplit(os.environ["AMQP_URL"])
    deadline = time.monotonic() + seconds
    problem = None
    while True:
        try:
            log_in(url)
            return 0
        except Refused as refused:
            print(refused, file=sys.stderr)
            return 3
        except OSError as error:
            problem = error
        if pid and not os.path.exists(f"/proc/{pid}"):
            return 2
        if time.monotonic() > deadline:
            print(f"no AMQP login at {url.hostname}:{url.port} succeeded within {seconds} s: {problem}", file=sys.stderr)
            return 1
        time.sleep(0.05)


# Ctrl-C ends this program without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
