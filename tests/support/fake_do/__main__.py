"""Runs the stand-in until it is ended; the first line it prints is where it listens."""

import argparse
import os
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from tests.support.fake_do.forms import Json
from tests.support.fake_do.server import Failure, FakeDo


def main() -> None:
    """Read the options, serve, stop on SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.fake_do", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0 takes any")
    parser.add_argument(
        "--ssh-host", action="append", help="public address of droplets, in turn when given again (127.0.0.1)"
    )
    parser.add_argument("--token", help="the only token that is accepted; any unless given")
    parser.add_argument("--domain", action="append", default=[], help="a domain that the account holds")
    parser.add_argument("--boot-polls", type=int, default=1, help="looks at a droplet or action until it is done")
    parser.add_argument(
        "--boot",
        help="a program run for each new droplet; DROPLET_ID, PUBLIC_ADDRESS, USER_DATA (a file) in its environment",
    )
    parser.add_argument(
        "--fail", action="append", default=[], help="'METHOD PATH_REGEX STATUS TIMES'; status 0 cuts the connection"
    )
    asked = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="fake-do-") as scratch:

        def boot(droplet: Json, user_data: str) -> None:
            file = Path(scratch) / f"user-data-{droplet['id']}"
            file.write_text(user_data)
            address = droplet["networks"]["v4"][0]["ip_address"]
            known = {"DROPLET_ID": str(droplet["id"]), "PUBLIC_ADDRESS": address, "USER_DATA": str(file)}
            subprocess.run([asked.boot], env={**os.environ, **known}, check=True)

        with FakeDo(
            asked.port,
            ssh_hosts=asked.ssh_host or ("127.0.0.1",),
            token=asked.token,
            boot_polls=asked.boot_polls,
            domains=asked.domain,
            on_boot=boot if asked.boot else None,
        ) as fake:
            for text in asked.fail:
                method, path, status, times = text.split()
                fake.failures.append(Failure(method, path, int(status), int(times)))
            print(fake.url, flush=True)
            ended.wait()


if __name__ == "__main__":
    main()
