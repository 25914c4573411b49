"""Serves the preview provider of a package as a plugin process, for previews under the official CLI.

    python -m infra.engine.serve aws

prints its port; the CLI attaches to it by PULUMI_DEBUG_PROVIDERS=aws:PORT. It checks arguments and answers previews; it
refuses to make, change or delete anything. For machines where the package's own plugin cannot be installed.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from infra.engine.errors import EngineError
from infra.engine.plugins import CHANNEL_OPTIONS
from infra.engine.preview_provider import PreviewProvider, UnknownAnswer
from infra.engine.props import Props, from_struct, to_struct
from infra.engine.providers import Existing, Failure
from infra.engine.sdkschema import Sdk, find_sdk

USAGE = "usage: python -m infra.engine.serve PACKAGE [ENGINE-ADDRESS]"
THREADS = 16


class PreviewService(provider_pb2_grpc.ResourceProviderServicer):
    """`pulumirpc.ResourceProvider` over a PreviewProvider.

    Args:
        sdk: the package's SDK.
        log: gets notes until an engine has said where it listens.
    """

    def __init__(self, sdk: Sdk, log: Callable[[str], None]) -> None:
        self._sdk, self._log = sdk, log
        self._provider = PreviewProvider(sdk, self._note)
        self._engine: engine_pb2_grpc.EngineStub | None = None

    # -- meeting the engine ----------------------------------------------------------------------------------------

    def GetPluginInfo(self, request: Any, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=self._sdk.version)

    def Handshake(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ProviderHandshakeResponse:
        self.attach(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, accept_resources=True, accept_outputs=False)

    def Attach(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.attach(request.address)
        return empty_pb2.Empty()

    def attach(self, address: str) -> None:
        """Sends notes to the engine at this address from now on."""
        if address:
            self._engine = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address, options=CHANNEL_OPTIONS))

    def GetSchema(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.GetSchemaResponse:
        return provider_pb2.GetSchemaResponse(
            schema=json.dumps({"name": self._sdk.package, "version": self._sdk.version})
        )

    # -- configuration ---------------------------------------------------------------------------------------------

    def CheckConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        checked, failures = self._provider.check_config(
            request.urn, from_struct(request.olds), from_struct(request.news)
        )
        return _checked(checked, failures)

    def DiffConfig(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_UNKNOWN)

    def Configure(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, acceptResources=True, acceptOutputs=False, supportsPreview=True
        )

    # -- resources -------------------------------------------------------------------------------------------------

    def Check(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        checked, failures = self._provider.check(request.urn, from_struct(request.olds), from_struct(request.news))
        return _checked(checked, failures)

    def Diff(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_UNKNOWN)

    def Create(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.CreateResponse:
        inputs = from_struct(request.properties)
        outcome = _guarded(context, lambda: self._provider.create(request.urn, inputs, 0, request.preview))
        return provider_pb2.CreateResponse(id="", properties=to_struct(outcome.outputs))

    def Read(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.ReadResponse:
        given, known = from_struct(request.inputs), from_struct(request.properties)
        outcome = self._provider.read(request.urn, request.id, given, known, 0)
        return provider_pb2.ReadResponse(id=outcome.id, properties=to_struct(outcome.outputs), inputs=request.inputs)

    def Update(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.UpdateResponse:
        old = Existing(request.urn, request.id, from_struct(request.old_inputs), from_struct(request.olds))
        news = from_struct(request.news)
        outcome = _guarded(context, lambda: self._provider.update(old, news, 0, [], request.preview))
        return provider_pb2.UpdateResponse(properties=to_struct(outcome.outputs))

    def Delete(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        old = Existing(request.urn, request.id, {}, from_struct(request.properties))
        _guarded(context, lambda: self._provider.delete(old, 0))
        return empty_pb2.Empty()

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> provider_pb2.InvokeResponse:
        try:
            result, failures = self._provider.invoke(request.tok, from_struct(request.args), preview=True)
        except UnknownAnswer:
            result, failures = self._unknown(request.tok), []
        response = provider_pb2.InvokeResponse(failures=_failures(failures))
        getattr(response, "return").CopyFrom(to_struct(result))
        return response

    def _unknown(self, function: str) -> Props:
        # The protocol lets no provider answer "unknown", so texts say it; what is no text is left out.
        return {name: f"<unknown: {function}>" for name, type_ in self._sdk.results(function).items() if type_ == "str"}

    def Cancel(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        return empty_pb2.Empty()

    # -- notes -----------------------------------------------------------------------------------------------------

    def _note(self, sentence: str) -> None:
        if self._engine is None:
            self._log(sentence)
            return
        with suppress(grpc.RpcError):
            self._engine.Log(engine_pb2.LogRequest(severity=engine_pb2.INFO, message=sentence))


def _guarded(context: grpc.ServicerContext, act: Callable[[], Any]) -> Any:
    try:
        return act()
    except EngineError as error:
        return context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))


def _checked(inputs: Props, failures: list[Failure]) -> provider_pb2.CheckResponse:
    return provider_pb2.CheckResponse(inputs=to_struct(inputs), failures=_failures(failures))


def _failures(failures: list[Failure]) -> list[provider_pb2.CheckFailure]:
    return [provider_pb2.CheckFailure(property=item.property, reason=item.reason) for item in failures]


def serve(sdk: Sdk, log: Callable[[str], None], engine: str = "") -> tuple[grpc.Server, int]:
    """Serves the package on a free port of loopback; returns server and port."""
    service = PreviewService(sdk, log)
    service.attach(engine)
    server = grpc.server(ThreadPoolExecutor(THREADS, "preview"), options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


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
