"""The services a program talks to: `pulumirpc.ResourceMonitor` and `pulumirpc.Engine`. The work is in registrar.py."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, resource_pb2, resource_pb2_grpc

from infra.engine.errors import EngineError
from infra.engine.events import Severity
from infra.engine.execute import Stopped
from infra.engine.plugins import CHANNEL_OPTIONS
from infra.engine.registrar import Registrar

# Only what is implemented: a feature that is missing here is a clear error of the SDK.
FEATURES = {
    "secrets": resource_pb2.RESOURCE_MONITOR_FEATURE_SECRETS,
    "resourceReferences": resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_REFERENCES,
    "aliasSpecs": resource_pb2.RESOURCE_MONITOR_FEATURE_ALIAS_SPECS,
    "deletedWith": resource_pb2.RESOURCE_MONITOR_FEATURE_DELETED_WITH,
    "transforms": resource_pb2.RESOURCE_MONITOR_FEATURE_TRANSFORMS,
    "invokeTransforms": resource_pb2.RESOURCE_MONITOR_FEATURE_INVOKE_TRANSFORMS,
    "resourceHooks": resource_pb2.RESOURCE_MONITOR_FEATURE_RESOURCE_HOOKS,
}
LOG_THREADS = 4
_SEVERITIES = {
    engine_pb2.DEBUG: Severity.DEBUG,
    engine_pb2.INFO: Severity.INFO,
    engine_pb2.WARNING: Severity.WARNING,
    engine_pb2.ERROR: Severity.ERROR,
}


class MonitorService(resource_pb2_grpc.ResourceMonitorServicer):
    """Translates requests for the registrar and its errors for the program."""

    def __init__(self, registrar: Registrar, info: resource_pb2.DeploymentInfo) -> None:
        self._registrar = registrar
        self._info = info

    def GetDeploymentInfo(self, request: Any, context: grpc.ServicerContext) -> resource_pb2.DeploymentInfo:
        return self._info

    def SupportsFeature(self, request: Any, context: grpc.ServicerContext) -> resource_pb2.SupportsFeatureResponse:
        return resource_pb2.SupportsFeatureResponse(hasSupport=request.id in FEATURES)

    def RegisterResource(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.register(request))

    def ReadResource(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.read(request))

    def RegisterResourceOutputs(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.register_outputs(request))

    def Invoke(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.invoke(request))

    def Call(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._refuse(context, f"resource methods ({request.tok})")

    def RegisterStackTransform(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.add_transform(request))

    def RegisterStackInvokeTransform(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.add_invoke_transform(request))

    def RegisterResourceHook(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._guarded(context, lambda: self._registrar.add_hook(request))

    def RegisterErrorHook(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._refuse(context, f"error hooks ({request.name})")

    def RegisterPackage(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._refuse(context, f"parameterized packages ({request.name})")

    def ExistsResource(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._refuse(context, f"the function `exists` of resources ({request.type})")

    def SignalAndWaitForShutdown(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self._registrar.program_done()
        return empty_pb2.Empty()

    def _guarded(self, context: grpc.ServicerContext, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Stopped:
            # The SDK turns this code into "Resource monitor has terminated": the program ends without more ado.
            return context.abort(grpc.StatusCode.UNAVAILABLE, "the operation is stopping")
        except EngineError as error:
            return context.abort(grpc.StatusCode.UNKNOWN, str(error))

    def _refuse(self, context: grpc.ServicerContext, feature: str) -> Any:
        return context.abort(grpc.StatusCode.UNIMPLEMENTED, f"the embedded engine does not model {feature}")


class EngineService(engine_pb2_grpc.EngineServicer):
    """Takes log messages of the program."""

    def __init__(self, log: Callable[[Severity, str, str], None]) -> None:
        self._log = log
        self._root = ""

    def Log(self, request: Any, context: grpc.ServicerContext) -> empty_pb2.Empty:
        if request.severity != engine_pb2.DEBUG:
            self._log(_SEVERITIES[request.severity], request.message.rstrip("\n"), request.urn)
        return empty_pb2.Empty()

    def GetRootResource(self, request: Any, context: grpc.ServicerContext) -> engine_pb2.GetRootResourceResponse:
        return engine_pb2.GetRootResourceResponse(urn=self._root)

    def SetRootResource(self, request: Any, context: grpc.ServicerContext) -> engine_pb2.SetRootResourceResponse:
        self._root = request.urn
        return engine_pb2.SetRootResourceResponse()


def deployment_info(
    *, project: str, stack: str, organization: str, config: dict[str, str], secret_keys: list[str], preview: bool,
    parallel: int,
) -> resource_pb2.DeploymentInfo:  # fmt: skip
    """What `GetDeploymentInfo` answers."""
    return resource_pb2.DeploymentInfo(
        project=project, stack=stack, organization=organization, config=config, configSecretKeys=secret_keys,
        dryRun=preview, parallel=parallel, supportedFeatures=list(FEATURES.values()),
    )  # fmt: skip


def serve(monitor: MonitorService, engine: EngineService, parallel: int) -> tuple[grpc.Server, int]:
    """Starts both services on one loopback port; returns server and port."""
    # A registration holds its thread until the resource is done; the SDK has at most 4 * parallel of them open.
    pool = ThreadPoolExecutor(max_workers=4 * parallel + 32, thread_name_prefix="monitor")
    server = grpc.server(pool, options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    resource_pb2_grpc.add_ResourceMonitorServicer_to_server(monitor, server)
    engine_pb2_grpc.add_EngineServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def serve_engine(engine: EngineService) -> tuple[grpc.Server, str]:
    """Starts the service that plugins log to; returns server and address."""
    pool = ThreadPoolExecutor(max_workers=LOG_THREADS, thread_name_prefix="engine")
    server = grpc.server(pool, options=[*CHANNEL_OPTIONS, ("grpc.so_reuseport", 0)])
    engine_pb2_grpc.add_EngineServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"
