"""Asks a URL, or waits until it answers well; run inside a namespace, so it is a script of the standard library alone.

Usage: python -I -S http_probe.py [--until-ready SECONDS] URL
A URL is `http://host:port/path` (well means status 200) or `tcp://host:port` (well means it accepts).
The body, or the reason why it is not well, goes to standard output.
Exit code: 0 well, 1 not well, 2 wrong usage.
"""

import http.client
import socket
import sys
import time

ATTEMPT_TIMEOUT_S = 3.0
INTERVAL_S = 0.05
LARGEST_BODY_BYTES = 1 << 20


def attempt(url: str) -> tuple[bool, str]:
    """Ask once; return whether the answer is well, and its body or the reason."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    host, _, port = authority.rpartition(":")
    try:
        if scheme == "tcp":
            with socket.create_connection((host, int(port)), timeout=ATTEMPT_TIMEOUT_S):
                return True, "accepts"
        connection = http.client.HTTPConnection(host, int(port), timeout=ATTEMPT_TIMEOUT_S)
        try:
            connection.request("GET", f"/{path}")
            response = connection.getresponse()
            body = response.read(LARGEST_BODY_BYTES).decode("utf-8", "replace")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return False, f"{url}: {error}"
    return response.status == 200, body if response.status == 200 else f"{url}: {response.status} {body.strip()}"


def main(argv: list[str]) -> int:
    """Run the command line."""
    wait_s = 0.0
    if len(argv) == 3 and argv[0] == "--until-ready":
        wait_s = float(argv[1])
        argv = argv[2:]
    if len(argv) != 1 or "://" not in argv[0]:
        print(__doc__)
        return 2
    deadline = time.monotonic() + wait_s
    while True:
        well, text = attempt(argv[0])
        if well or time.monotonic() >= deadline:
            print(text)
            return 0 if well else 1
        time.sleep(INTERVAL_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
