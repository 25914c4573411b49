"""Serves a package of the twin as a plugin process, so that the official CLI can drive the twin, too.

    python -m infra.twin.serve digitalocean RUN [ENGINE-ADDRESS]

prints its port; an engine attaches to it by PULUMI_DEBUG_PROVIDERS=digitalocean:PORT. RUN is the lab run of a world
that is up. It makes, changes and deletes things on this machine, and nowhere else.
"""

import sys
from collections.abc import Callable
from typing import Final

import grpc

from infra.engine.errors import EngineError
from infra.engine.sdkschema import find_sdk
from infra.engine.service import ProviderService, listen
from infra.lab.errors import LabError
from infra.twin.packages import package
from infra.twin.provider import TwinProvider
from infra.twin.site import Site

USAGE: Final = "usage: python -m infra.twin.serve PACKAGE RUN [ENGINE-ADDRESS]"


class TwinService(ProviderService):
    """Serves a TwinProvider.

    Args:
        name: of the package.
        site: the world.
        log: gets notes until an engine has said where it listens.

    Raises:
        UnsupportedError: the twin does not have the package.
    """

    refusals = (EngineError, LabError, ValueError)

    def __init__(self, name: str, site: Site, log: Callable[[str], None]) -> None:
        found, sdk = package(name), find_sdk(name, sys.executable)
        version = sdk.version if sdk is not None else "0.0.0"
        super().__init__(name, version, lambda note: TwinProvider(found, site, sdk, note), log)


def serve(name: str, site: Site, log: Callable[[str], None], engine: str = "") -> tuple[grpc.Server, int]:
    """Serve a package on a free port of loopback; returns server and port.

    Raises:
        UnsupportedError: the twin does not have the package.
    """
    return listen(TwinService(name, site, log), engine)


def main(arguments: list[str]) -> int:
    """Serve until the process is ended; returns 2 when there is nothing to serve."""
    if not 2 <= len(arguments) <= 3:
        print(USAGE, file=sys.stderr)
        return 2
    name, run, *engine = arguments

    def log(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    site = Site(run, say=log)
    if not site.exists:
        print(f"there is no world {run!r}: ztna up --stack NAME --twin makes one", file=sys.stderr)
        return 2
    try:
        server, port = serve(name, site, log, *engine)
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2
    print(port, flush=True)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
