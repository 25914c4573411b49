"""The services of the lab: an echo on UDP and TCP, and httpbin under a real WSGI server."""

from dataclasses import dataclass

import pulumi

from components.lab_process import PYTHON, LabProcess, ProcessArgs
from components.lab_runtime import LabSite
from infra import naming

HTTPBIN_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class LabServiceArgs:
    """Where a service listens: on which host, at which address and port; `after` must be there before it starts."""

    site: LabSite
    host: str
    address: str
    port: int
    after: tuple[pulumi.Resource, ...] = ()


class LabEcho(pulumi.ComponentResource):
    """An echo service on UDP and TCP of one port.

    Children: LabProcess x 1. Outputs: `endpoint`. It makes no host.
    """

    endpoint: pulumi.Output[str]

    def __init__(self, name: str, args: LabServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("LabEcho"), name, {}, opts)
        LabProcess(
            naming.child_name(name, "process"),
            ProcessArgs(
                site=args.site,
                host=args.host,
                name="echo",
                argv=(PYTHON, "-m", "infra.echo", "--bind", args.address, "--port", str(args.port)),
                files={},
                ready_url=f"tcp://{args.address}:{args.port}",
            ),
            pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.endpoint = pulumi.Output.from_input(f"{args.address}:{args.port}")
        self.register_outputs({"endpoint": self.endpoint})


class LabHttpbin(pulumi.ComponentResource):
    """httpbin under waitress.

    Children: LabProcess x 1. Outputs: `endpoint`. It makes no host.
    """

    endpoint: pulumi.Output[str]

    def __init__(self, name: str, args: LabServiceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(naming.component_token("LabHttpbin"), name, {}, opts)
        listen = f"--listen={args.address}:{args.port}"
        LabProcess(
            naming.child_name(name, "process"),
            ProcessArgs(
                site=args.site,
                host=args.host,
                name="httpbin",
                argv=(PYTHON, "-m", "waitress", listen, f"--threads={HTTPBIN_THREADS}", "httpbin:app"),
                files={},
                ready_url=f"http://{args.address}:{args.port}/get",
            ),
            pulumi.ResourceOptions(parent=self, depends_on=list(args.after)),
        )
        self.endpoint = pulumi.Output.from_input(f"{args.address}:{args.port}")
        self.register_outputs({"endpoint": self.endpoint})
