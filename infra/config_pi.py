"""Configuration of the `pi-home` stack: a Kubernetes cluster at home, Cilium announcing one address on its LAN.

Keys live in the namespace `pi-home`. Nothing here reads a file or the network; a bad key is a `ConfigError` that names
the key, the value and the remedy (infra/config.py).
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from infra import ports
from infra.config import ConfigError, ConfigSource, Key, Reader, parse_choice
from infra.config_overlay import (
    OVERLAY_KEYS,
    OverlaySettings,
    ServiceSettings,
    overlay_settings,
    parse_bool,
    parse_digest,
    parse_image,
)
from infra.outputs import ServicePort
from infra.overlay import Overlay

ADMIN_SOCKET: Final = "/run/ztna/admin.sock"
"""In the relay's pod, in a directory of its own that may be written."""
TRAFFIC_POLICY: Final = "Local"
"""`externalTrafficPolicy` of the relay's Service. `Cluster` would rewrite the source address of every packet, and the
observed address that agents are told would be a node's: no key changes it."""

EXAMPLE_DIGEST: Final = "sha256:" + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The digest in the committed example: SHA-256 of nothing, which is no image's."""

POOL_VERSIONS: Final = ("v2", "v2alpha1")
OVERLAY_REPOSITORY: Final = "ztna/app-connector"
HTTP_REPOSITORY: Final = "ztna/http-app"
MAX_POOL: Final = 4096
INTERMEDIATE, CONNECTOR = "intermediate", "connector"
ECHO, HTTPBIN, QUAKEKUBE = "echo-server", "httpbin", "quakekube"

PI_KEYS: Final = (
    Key(
        name="loadBalancerIp",
        help="IPv4 address of the LAN by which the relay is reached; free, outside the DHCP range, and in `pool`",
        example="10.0.150.205",
    ),
    Key(
        name="pool",
        help="addresses that Cilium may give to this stack's Services: a CIDR, or first-last",
        example="10.0.150.205/32",
    ),
    Key(
        name="registry",
        help="registry and path that hold this project's images (docs/deploy-k8s.md says how to build and push them)",
        example="registry.home.arpa:5000",
    ),
    Key(
        name="imageDigest",
        help=f"digest of the image {OVERLAY_REPOSITORY} there: intermediate, connector and echo-server run it",
        example=EXAMPLE_DIGEST,
    ),
    Key(name="httpDigest", help=f"digest of the image {HTTP_REPOSITORY} there: httpbin", example=EXAMPLE_DIGEST),
    Key(
        name="interfaces",
        help="network interfaces on which the address is announced: regular expressions, a JSON list",
        example='["^eth[0-9]+", "^en.*"]',
        default='["^eth[0-9]+", "^en.*"]',
    ),
    Key(
        name="nodeSelector",
        help="labels of the nodes that run the relay and announce its address, a JSON object; of several nodes name "
        "one, since a node without the relay's pod drops what it attracts",
        example='{"kubernetes.io/hostname": "pi-1"}',
        default="{}",
    ),
    Key(
        name="ciliumPoolVersion",
        help="API version of CiliumLoadBalancerIPPool: v2, or v2alpha1 where `kubectl api-resources` lists no v2",
        example="v2alpha1",
        default="v2",
    ),
    Key(name="namespace", help="Kubernetes namespace that the stack makes and owns", example="ztna", default="ztna"),
    Key(
        name="kubeconfig",
        help="path of the kubeconfig file; unless given, KUBECONFIG or ~/.kube/config",
        example="~/.kube/pi-home",
        default="",
    ),
    Key(name="context", help="context of the kubeconfig; unless given, its current one", example="pi", default=""),
    Key(
        name="awaitReady",
        help="whether `up` waits until every pod is ready and Cilium has given the address; false where they come "
        "later",
        example="false",
        default="true",
    ),
    Key(
        name="quakekube",
        help="true also deploys QuakeKube and its service; with it you agree to the EULA of the Quake III demo, whose "
        "data its image brings",
        example="true",
        default="false",
    ),
    Key(
        name="quakekubeImage",
        help="image of QuakeKube by digest; wanted with quakekube true",
        example="ghcr.io/chrisrx/quake-kube@" + EXAMPLE_DIGEST,
        default="",
    ),
    Key(
        name="renderDir",
        help="a directory: `pulumi up` then writes the manifests there as YAML, Secrets in plain text, and touches no "
        "cluster (`ztna render` does so without Pulumi)",
        example="rendered",
        default="",
    ),
    *OVERLAY_KEYS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressPool:
    """Addresses for Services, as Cilium's pools take them: a CIDR, or first and last."""

    first: IPv4Address
    last: IPv4Address
    cidr: str | None = None

    def __contains__(self, address: IPv4Address) -> bool:
        return self.first <= address <= self.last

    @property
    def block(self) -> dict[str, str]:
        """The block of a CiliumLoadBalancerIPPool."""
        return {"cidr": self.cidr} if self.cidr else {"start": str(self.first), "stop": str(self.last)}


@dataclass(frozen=True, kw_only=True, slots=True)
class PiConfig:
    """Configuration of the `pi-home` stack. Paths, context and images are None where they are not wanted."""

    load_balancer_ip: IPv4Address
    pool: AddressPool
    overlay_image: str
    http_image: str
    quakekube_image: str | None
    interfaces: tuple[str, ...]
    node_selector: Mapping[str, str]
    pool_version: str
    namespace: str
    kubeconfig: str | None
    context: str | None
    render_dir: str | None
    await_ready: bool
    overlay: OverlaySettings

    @property
    def relay_host(self) -> str:
        """The relay's name inside the cluster, which stands for its ClusterIP."""
        return service_host(INTERMEDIATE, self.namespace)

    @property
    def limits(self) -> tuple[str, ...]:
        """What this configuration cannot do, each with the remedy."""
        images = [image for image in (self.overlay_image, self.http_image, self.quakekube_image) if image]
        found = []
        if any(image.endswith(EXAMPLE_DIGEST) for image in images):
            found.append(
                "an image digest is still the example's, no node can pull it: build and push the images, then "
                "ztna config set --stack pi-home pi-home:imageDigest sha256:... (and httpDigest)"
            )
        if not self.node_selector:
            found.append(
                "nodeSelector is empty: of several nodes one without the relay's pod may announce the address; "
                'name one node, like pi-home:nodeSelector {"kubernetes.io/hostname": "pi-1"}'
            )
        return tuple(found)


def pi_config(source: ConfigSource) -> PiConfig:
    """Read the `pi-home` stack's configuration.

    Args:
        source: `pulumi.Config("pi-home")`.

    Raises:
        ConfigError: a key is missing or bad, or two of them do not fit together.
    """
    reader = Reader(source, PI_KEYS)
    namespace = reader.parse("namespace", parse_namespace)
    registry = reader.parse("registry", parse_registry)
    quakekube = reader.parse("quakekube", parse_bool)
    address, pool = reader.parse("loadBalancerIp", parse_address), reader.parse("pool", parse_pool)
    if address not in pool:
        raise ConfigError(
            f"pi-home:loadBalancerIp is {address}, which is not in pi-home:pool ({reader.text('pool')}): Cilium would "
            f"leave the Service without an address.\nRun: ztna config set --stack pi-home pi-home:pool {address}/32"
        )
    return PiConfig(
        load_balancer_ip=address,
        pool=pool,
        overlay_image=f"{registry}/{OVERLAY_REPOSITORY}@{reader.parse('imageDigest', parse_digest)}",
        http_image=f"{registry}/{HTTP_REPOSITORY}@{reader.parse('httpDigest', parse_digest)}",
        quakekube_image=reader.parse("quakekubeImage", parse_image) if quakekube else None,
        interfaces=reader.parse("interfaces", parse_interfaces),
        node_selector=reader.parse("nodeSelector", parse_labels),
        pool_version=reader.parse("ciliumPoolVersion", lambda text: parse_choice(text, POOL_VERSIONS)),
        namespace=namespace,
        kubeconfig=reader.text("kubeconfig") or None,
        context=reader.text("context") or None,
        render_dir=reader.text("renderDir") or None,
        await_ready=reader.parse("awaitReady", parse_bool),
        overlay=overlay_settings(
            reader, default_services(namespace, quakekube=quakekube), no_kernel="pods of the stack have no capability"
        ),
    )


def pi_overlay(stack: str, config: PiConfig) -> Overlay:
    """Return the overlay of the stack. Its relay has STUN's second port too: the connector is a host of its own."""
    return Overlay(
        stack=stack,
        run=config.overlay.run,
        settings=config.overlay,
        relay_name=INTERMEDIATE,
        connector_name=CONNECTOR,
        alternate_port=ports.STUN_ALTERNATE,
        admin_socket=ADMIN_SOCKET,
    )


def service_host(name: str, namespace: str) -> str:
    """Return the DNS name of a Service inside the cluster, complete in every cluster domain by the search list."""
    return f"{name}.{namespace}.svc"


def default_services(namespace: str, *, quakekube: bool) -> tuple[ServiceSettings, ...]:
    """Return the services of the overlay, each with its Service in the cluster as the backend."""
    echo, httpbin, quake = (service_host(name, namespace) for name in (ECHO, HTTPBIN, QUAKEKUBE))
    udp, tcp = ServicePort(protocol="udp", port=ports.ECHO), ServicePort(protocol="tcp", port=ports.ECHO)
    services = (
        ServiceSettings(
            id="echo-service",
            ports=(udp, tcp, ServicePort(protocol="icmp", port=0)),
            backend=f"{echo}:{ports.ECHO}",
            port_backends={},
        ),
        ServiceSettings(
            id="http-app",
            ports=(ServicePort(protocol="tcp", port=ports.HTTP),),
            backend=f"{httpbin}:{ports.HTTPBIN}",
            port_backends={},
        ),
    )
    game = ServiceSettings(
        id="quakekube",
        ports=(ServicePort(protocol="udp", port=27960), ServicePort(protocol="tcp", port=8080)),
        backend=f"{quake}:27960",
        port_backends={"tcp/8080": f"{quake}:8080"},
    )
    return (*services, game) if quakekube else services


def parse_address(text: str) -> IPv4Address:
    """Return a unicast IPv4 address, else raise ValueError."""
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ValueError("it is not an IPv4 address (Cilium's L2 announcements answer ARP only)") from None
    if address.is_multicast or address.is_loopback or address.is_unspecified:
        raise ValueError("it is no address that a LAN can reach")
    return address


def parse_pool(text: str) -> AddressPool:
    """Read a CIDR or `first-last`. Raises ValueError; more than MAX_POOL addresses are taken for a slip."""
    first_text, dash, last_text = text.partition("-")
    try:
        if dash:
            pool = AddressPool(first=IPv4Address(first_text.strip()), last=IPv4Address(last_text.strip()))
        else:
            network = ipaddress.IPv4Network(text)
            pool = AddressPool(first=network.network_address, last=network.broadcast_address, cidr=str(network))
    except ValueError as error:
        raise ValueError(f"it is neither a CIDR nor first-last ({error})") from None
    count = int(pool.last) - int(pool.first) + 1
    if not 1 <= count <= MAX_POOL:
        raise ValueError(f"it holds {count} addresses, it must hold 1 to {MAX_POOL}")
    return pool


def parse_registry(text: str) -> str:
    """Return `host[:port][/path]` without a slash at the end, else raise ValueError."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._/-]*[a-z0-9])?", text):
        raise ValueError("it is not host[:port][/path] in lower case, without https:// and without a slash at the end")
    return text


def parse_namespace(text: str) -> str:
    """Return a DNS label (RFC 1123) of at most 63 characters that is no namespace of the cluster's own."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text):
        raise ValueError("a namespace is 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'")
    if text == "default" or text.startswith("kube-"):
        raise ValueError("the stack makes its namespace and destroys it again: give it one of its own, like ztna")
    return text


def parse_interfaces(text: str) -> tuple[str, ...]:
    """Read a JSON list of regular expressions. Raises ValueError."""
    values = _json(text)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        raise ValueError('it is not a list of regular expressions like ["^eth[0-9]+"]')
    for value in values:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
    return tuple(values)


_LABEL_KEY: Final = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def parse_labels(text: str) -> dict[str, str]:
    """Read a JSON object of labels. Raises ValueError."""
    values = _json(text)
    if not isinstance(values, dict):
        raise ValueError('it is not an object of labels like {"kubernetes.io/hostname": "pi-1"}')
    for key, value in values.items():
        if not _LABEL_KEY.fullmatch(key) or not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{key!r}: {value!r} is not a label; both are text of at most 63 of A-Z a-z 0-9 _ . -")
    return values


def _json(text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at character {error.pos})") from None
    return parsed
