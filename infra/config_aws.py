"""Configuration of the `aws-us-east-2` stack: relay on EC2, connector and backends on Fargate.

Keys live in the namespace `aws-us-east-2`. Nothing here reads a file or the network; a bad key is a `ConfigError` that
names the key, the value and the remedy (infra/config.py).
"""

import re
from dataclasses import dataclass
from typing import Final

from infra import ports
from infra.bundle_lock import PYTHONS
from infra.config import ConfigSource, Key, Reader, parse_choice, parse_int
from infra.config_overlay import (
    OVERLAY_KEYS,
    OverlaySettings,
    ServiceSettings,
    overlay_settings,
    parse_bool,
    parse_image,
    parse_strings,
    service_settings,
)
from infra.config_ssh import Network, parse_admin_cidrs, parse_public_keys

PLATFORMS: Final = ("linux/amd64", "linux/arm64")
LOG_RETENTION_DAYS: Final = (
    "1",
    "3",
    "5",
    "7",
    "14",
    "30",
    "60",
    "90",
    "120",
    "150",
    "180",
    "365",
    "400",
    "545",
    "731",
)
"""The periods that CloudWatch Logs knows, up to two years.

Source: https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutRetentionPolicy.html
"""
UBUNTU: Final = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
QUAKEKUBE_IMAGE: Final = "ghcr.io/chrisrx/quake-kube@sha256:" + "0" * 64
"""An example: the digest of the day is its registry's to tell."""
DOMAIN: Final = "ztna.internal"
"""Private DNS of the VPC: `.internal` is kept for private use by ICANN (resolution 2024.07.29.06)."""
HTTP_APP: Final = "http-app"
QUAKEKUBE: Final = "quakekube"
QUAKE_PORT: Final = 27960
"""TCP of QuakeKube: the page of the game, its data and its web socket, on the number that Quake has in UDP."""
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ZONE: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d[a-z]")
_INSTANCE_TYPE: Final = re.compile(r"[a-z0-9-]+\.[a-z0-9]+")
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_ARM_FAMILY: Final = re.compile(r"(a1|[a-z]+\d+g[a-z]*)\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class AwsConfig:
    """Configuration of the `aws-us-east-2` stack.

    Attributes:
        zones: availability zones, one or two; relay and NAT gateway stand in the first.
        host_user: the image's own user, who logs in.
        host_python: version of the image's /usr/bin/python3, which the release is built for.
        admin_cidrs: networks that may open SSH to the relay; never the whole internet.
        ssh_public_keys: keys that may log in beside the stack's own.
        host_generation: another number makes another instance; the address stays.
        platforms: of the images; tasks run the first.
        backends: TCP port of each backend that the stack runs, by name.
        quakekube_image: what the stack's QuakeKube image is made from.
    """

    region: str
    zones: tuple[str, ...]
    instance_type: str
    ami_parameter: str
    host_user: str
    host_python: str
    admin_cidrs: tuple[Network, ...]
    ssh_public_keys: tuple[str, ...]
    host_generation: int
    platforms: tuple[str, ...]
    log_retention_days: int
    backends: dict[str, int]
    quakekube_image: str
    overlay: OverlaySettings


AWS_KEYS: Final = (
    Key(name="region", help="AWS region of everything", example="eu-central-1", default="us-east-2"),
    Key(
        name="zones",
        help="one or two availability zones of the region; the second one costs a second address of the load balancer "
        "and lets tasks survive the loss of a zone, the relay and the NAT gateway stay in the first",
        example='["us-east-2a", "us-east-2b"]',
        default='["us-east-2a"]',
    ),
    Key(
        name="adminCidrs",
        help="networks that may open SSH to the relay, of either IP version; the machine that runs `up` must be in "
        "one of them",
        example='["203.0.113.0/24"]',
    ),
    Key(
        name="sshPublicKeys",
        help="SSH public keys of administrators, let in beside the stack's own key, a JSON list; none unless given",
        example='["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHExampleExampleExampleExampleExampleExample admin"]',
        default="[]",
    ),
    Key(name="instanceType", help="EC2 instance type of the relay, x86-64", example="t3.small", default="t3.micro"),
    Key(
        name="amiParameter",
        help="public SSM parameter that holds the id of the relay's image; an instance that is there keeps its own, "
        "see hostGeneration",
        example=UBUNTU,
        default=UBUNTU,
    ),
    Key(
        name="hostUser",
        help="the image's own user, who logs in: ubuntu of Ubuntu's images, admin of Debian's; change it together with "
        "amiParameter",
        example="admin",
        default="ubuntu",
    ),
    Key(
        name="hostPython",
        help="version of the image's /usr/bin/python3, which the release is built for: 3.12 of Ubuntu 24.04, 3.11 of "
        "Debian 12, 3.13 of Debian 13; change it together with amiParameter",
        example="'3.11'",
        default="3.12",
    ),
    Key(
        name="hostGeneration",
        help="raise it to replace the relay's instance: a new one is made from the newest image, the address moves, "
        "it is released to, the old one goes",
        example="2",
        default="1",
    ),
    Key(
        name="platforms",
        help="platforms of the container images: " + ", ".join(PLATFORMS) + "; tasks run the first, others are built "
        "for hosts elsewhere, such as a Raspberry Pi",
        example='["linux/amd64", "linux/arm64"]',
        default='["linux/amd64"]',
    ),
    Key(
        name="logRetentionDays",
        help="how long the lines of tasks are kept: " + ", ".join(LOG_RETENTION_DAYS) + " days",
        example="30",
        default="14",
    ),
    Key(
        name="quakekube",
        help="whether the stack runs a Quake III arena in the browser as a second service: true or false; with true "
        "you agree to the EULA of the Quake III demo, whose data its image brings",
        example="true",
        default="false",
    ),
    Key(
        name="quakekubeImage",
        help="image of QuakeKube by digest, which the stack's own is made from; wanted with quakekube true",
        example=QUAKEKUBE_IMAGE,
        default="",
    ),
    *OVERLAY_KEYS,
)


def backend_host(name: str) -> str:
    """Return the name by which a backend is found inside the VPC."""
    return f"{name}.{DOMAIN}"


def default_services(backends: dict[str, int]) -> tuple[ServiceSettings, ...]:
    """Return the services of the stack's own backends: each answers on its own port, http-app on 80."""
    virtual = {HTTP_APP: ports.HTTP}
    return tuple(
        service_settings(name, f"{backend_host(name)}:{port}", f"tcp/{virtual.get(name, port)}")
        for name, port in backends.items()
    )


def aws_config(source: ConfigSource) -> AwsConfig:
    """Read the `aws-us-east-2` stack's configuration.

    Args:
        source: `pulumi.Config("aws-us-east-2")`.

    Raises:
        ConfigError: a key is missing or bad.
    """
    reader = Reader(source, AWS_KEYS)
    region = reader.parse("region", lambda text: _matching(text, _REGION, "region, such as us-east-2"))
    backends = {HTTP_APP: ports.HTTPBIN}
    quakekube = reader.parse("quakekube", parse_bool)
    if quakekube:
        backends[QUAKEKUBE] = QUAKE_PORT
    return AwsConfig(
        region=region,
        zones=reader.parse("zones", lambda text: parse_zones(text, region)),
        instance_type=reader.parse("instanceType", parse_instance_type),
        ami_parameter=reader.parse("amiParameter", parse_ami_parameter),
        host_user=reader.parse("hostUser", lambda text: _matching(text, _USER, "name of a user, such as ubuntu")),
        host_python=reader.parse("hostPython", lambda text: parse_choice(text, PYTHONS)),
        admin_cidrs=reader.parse("adminCidrs", parse_admin_cidrs),
        ssh_public_keys=reader.parse("sshPublicKeys", parse_public_keys),
        host_generation=reader.parse("hostGeneration", lambda text: parse_int(text, 1, 2**31)),
        platforms=reader.parse("platforms", parse_platforms),
        log_retention_days=int(reader.parse("logRetentionDays", lambda text: parse_choice(text, LOG_RETENTION_DAYS))),
        backends=backends,
        quakekube_image=reader.parse("quakekubeImage", parse_image) if quakekube else "",
        overlay=overlay_settings(reader, default_services(backends)),
    )


def parse_zones(text: str, region: str) -> tuple[str, ...]:
    """Read one or two availability zones of a region. Raises ValueError."""
    zones = parse_strings(text)
    for zone in zones:
        if not _ZONE.fullmatch(zone) or zone[:-1] != region:
            raise ValueError(f"{zone!r} is no availability zone of {region}, such as {region}a")
    if not 1 <= len(zones) <= 2 or len(set(zones)) < len(zones):
        raise ValueError("it must be one zone, or two different ones")
    return zones


def parse_instance_type(text: str) -> str:
    """Return an x86-64 instance type. Raises ValueError."""
    _matching(text, _INSTANCE_TYPE, "instance type, such as t3.micro")
    if _ARM_FAMILY.match(text):
        raise ValueError(
            "it is of an Arm family, and the relay's release is built for x86-64; use one such as t3.micro"
        )
    return text


def parse_ami_parameter(text: str) -> str:
    """Return the name of a public SSM parameter. Raises ValueError."""
    if text.startswith("ami-"):
        raise ValueError("it is the id of an image, which differs by region; give the SSM parameter that holds it")
    if not text.startswith("/aws/service/"):
        raise ValueError("it is no public parameter; those begin with /aws/service/")
    return text


def parse_platforms(text: str) -> tuple[str, ...]:
    """Read the platforms of images. Raises ValueError."""
    platforms = parse_strings(text)
    if not platforms:
        raise ValueError("it is empty; give at least linux/amd64")
    for platform in platforms:
        parse_choice(platform, PLATFORMS)
    if len(set(platforms)) < len(platforms):
        raise ValueError("a platform occurs twice")
    return platforms


def _matching(text: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"it is no {what}")
    return text
