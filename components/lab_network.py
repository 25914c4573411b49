"""The lab's network as resources: one run, its segments, routers and hosts, each changed in place where it can be."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pulumi
from pulumi.dynamic import Resource

from components.lab_provider import LabProvider
from components.lab_runtime import LabHandle, LabSite
from infra import naming
from infra.lab.topology import Host, Router, Segment, Spec, Topology


class RunProvider(LabProvider):
    """The run itself: what dead runs left is reaped before it begins, and whatever of it is left goes with it."""

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Reap what dead runs left and make the run's directory."""
        LabHandle(props).open()
        return {}

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether the run is known on this machine."""
        return LabHandle(props).record() is not None

    def remove(self, props: dict[str, Any]) -> None:
        """Remove everything that the run made, also what the state does not know of."""
        LabHandle(props).close()


class SegmentProvider(LabProvider):
    """A LAN."""

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Make the segment."""
        LabHandle(props).lab.ensure_segment(Segment.from_spec(props["spec"]))
        return {}

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether its bridge is there."""
        return LabHandle(props).has_segment(str(props["name"]))

    def remove(self, props: dict[str, Any]) -> None:
        """Remove it."""
        if LabHandle(props).record() is not None:
            LabHandle(props).lab.remove_segment(str(props["name"]))


class RouterProvider(LabProvider):
    """A router with its NAT; a changed NAT or link is applied in place, and mappings of the old one are forgotten."""

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Make the router so."""
        LabHandle(props).lab.ensure_router(Router.from_spec(props["spec"]))
        return {}

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether its namespaces are there."""
        return LabHandle(props).has_node(str(props["name"]))

    def remove(self, props: dict[str, Any]) -> None:
        """Remove it."""
        if LabHandle(props).record() is not None:
            LabHandle(props).lab.remove_router(str(props["name"]))


class HostProvider(LabProvider):
    """A host; changed links are applied in place, so that its processes live on."""

    def ensure(self, props: dict[str, Any], olds: dict[str, Any] | None) -> dict[str, Any]:
        """Make the host so."""
        LabHandle(props).lab.ensure_host(Host.from_spec(props["spec"]))
        return {}

    def exists(self, props: dict[str, Any]) -> bool:
        """Return whether its namespace is there."""
        return LabHandle(props).has_node(str(props["name"]))

    def remove(self, props: dict[str, Any]) -> None:
        """Remove it with the processes in it."""
        if LabHandle(props).record() is not None:
            LabHandle(props).lab.remove_host(str(props["name"]))


class LabRun(Resource, module="lab", name="Run"):
    """A run of the lab on this machine, by the rung that realises it."""

    def __init__(self, name: str, site: LabSite, opts: pulumi.ResourceOptions) -> None:
        super().__init__(RunProvider(), name, site.props(name), opts)


class LabSegment(Resource, module="lab", name="Segment"):
    """A LAN as a resource."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(SegmentProvider(), name, props, opts)


class LabRouter(Resource, module="lab", name="Router"):
    """A router as a resource."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(RouterProvider(), name, props, opts)


class LabHost(Resource, module="lab", name="Host"):
    """A host as a resource."""

    def __init__(self, name: str, props: dict[str, Any], opts: pulumi.ResourceOptions) -> None:
        super().__init__(HostProvider(), name, props, opts)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabNetworkArgs:
    """Where, and what is to be realised."""

    site: LabSite
    topology: Topology


class LabNetwork(pulumi.ComponentResource):
    """A topology on this machine.

    Children: LabRun x 1, LabSegment, LabRouter and LabHost x one per element of the topology.
    Outputs: `run`, `rung`. It starts no process.
    """

    run: pulumi.Output[str]
    rung: pulumi.Output[str]
    TOKEN: ClassVar = naming.component_token("LabNetwork")

    def __init__(self, name: str, args: LabNetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(self.TOKEN, name, {}, opts)
        self._name, self._args = name, args
        run = LabRun(naming.child_name(name, "run"), args.site, pulumi.ResourceOptions(parent=self))
        self.segments = {
            segment.name: LabSegment(*self._described(segment.name, segment, [run]))
            for segment in args.topology.segments
        }
        self.routers = {
            router.name: LabRouter(*self._described(router.name, router, self._plugged(router.inside, router.outside)))
            for router in args.topology.routers
        }
        self.hosts = {
            host.name: LabHost(*self._described(host.name, host, self._plugged(*host.links)))
            for host in args.topology.hosts
        }
        self.run = pulumi.Output.from_input(args.site.run)
        self.rung = pulumi.Output.from_input(args.site.rung.value)
        self.register_outputs({"run": self.run, "rung": self.rung})

    def _described(
        self, part: str, spec: Spec, after: list[Resource]
    ) -> tuple[str, dict[str, Any], pulumi.ResourceOptions]:
        props = {**self._args.site.props(part), "spec": spec.to_spec()}
        options = pulumi.ResourceOptions(parent=self, depends_on=after)
        return naming.child_name(self._name, part), props, options

    def _plugged(self, *links: Any) -> list[Resource]:
        names = {link.segment for group in links for link in (group if isinstance(group, tuple) else (group,))}
        return [self.segments[name] for name in sorted(names)]
