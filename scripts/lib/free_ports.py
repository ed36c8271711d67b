"""Prints COUNT free TCP ports of 127.0.0.1. With ports as further arguments it exits with 1 if one of them stays taken.

It chooses at random below the range that the kernel gives to outgoing connections. So a port is still free when its
program restarts, and two scripts at the same time hardly ever choose the same one.
"""

import random
import socket
import sys
import time

# A killed program with many threads holds its ports until the last thread is gone.
RELEASED_WITHIN_S = 10


def is_free(port):
    with socket.socket() as probe:
        # Servers set this, too: a connection in TIME_WAIT does not occupy the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def main(count, wanted):
    if wanted:
        deadline = time.monotonic() + RELEASED_WITHIN_S
        while not all(is_free(port) for port in wanted):
            if time.monotonic() > deadline:
                sys.exit(1)
            time.sleep(0.1)
        return
    found = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(12000, 32000)
        if is_free(port):
            found.add(port)
    print(*found)


main(int(sys.argv[1]), [int(port) for port in sys.argv[2:]])
