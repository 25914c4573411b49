"""Serves the preview provider of a package as a plugin process, for previews under the official CLI.

    python -m infra.engine.serve aws

prints its port; the CLI attaches to it by PULUMI_DEBUG_PROVIDERS=aws:PORT. It checks arguments and answers previews; it
refuses to make, change or delete anything. For machines where the package's own plugin cannot be installed.
"""

import sys
from collections.abc import Callable

import grpc

from infra.engine.preview_provider import PreviewProvider, UnknownAnswer
from infra.engine.props import Props
from infra.engine.providers import Failure
from infra.engine.sdkschema import Sdk, find_sdk
from infra.engine.service import ProviderService, listen

USAGE = "usage: python -m infra.engine.serve PACKAGE [ENGINE-ADDRESS]"


class PreviewService(ProviderService):
    """Serves a PreviewProvider.

    Args:
        sdk: the package's SDK.
        log: gets notes until an engine has said where it listens.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self, sdk: Sdk, log: Callable[[str], None]) -> None:
        super().__init__(sdk.package, sdk.version, lambda note: PreviewProvider(sdk, note), log)
        self._sdk = sdk

    def invoke(self, function: str, arguments: Props, preview: bool) -> tuple[Props, list[Failure]]:
        try:
            return super().invoke(function, arguments, preview=True)
        except UnknownAnswer:
            return self._unknown(function), []

    def _unknown(self, function: str) -> Props:
        # The protocol lets no provider answer "unknown", so texts say it; what is no text is left out.
        return {name: f"<unknown: {function}>" for name, type_ in self._sdk.results(function).items() if type_ == "str"}


def serve(sdk: Sdk, log: Callable[[str], None], engine: str = "") -> tuple[grpc.Server, int]:
    """Serves the package on a free port of loopback; returns server and port."""
    return listen(PreviewService(sdk, log), engine)


def main(arguments: list[str]) -> int:
    """Serves until the process is ended; returns 2 when there is nothing to serve."""
    if not 1 <= len(arguments) <= 2:
        print(USAGE, file=sys.stderr)
        return 2
    sdk = find_sdk(arguments[0], sys.executable)
    if sdk is None:
        name = f"pulumi-{arguments[0]}"
        print(f"there is no SDK of package {arguments[0]!r} beside {sys.executable}: install {name}", file=sys.stderr)
        return 2
    server, port = serve(sdk, lambda sentence: print(sentence, file=sys.stderr, flush=True), *arguments[1:])
    print(port, flush=True)
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
