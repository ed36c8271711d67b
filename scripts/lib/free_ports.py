"""Prints COUNT free TCP ports of 127.0.0.1, or, with ports as further arguments, exits 1 when one of them stays taken.

They are chosen at random below the range that the kernel gives to outgoing connections, so that they are still free
when a program comes back to its port after a restart, and so that two of us at the same time hardly ever collide.
"""

import random
import socket
import sys
import time

# A killed program with many threads holds its ports until the last thread is gone.
RELEASED_WITHIN_S = 10


def is_free(port):
    with socket.socket() as probe:
        # As servers do: a connection that lingers in TIME_WAIT does not make a port taken.
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
