"""What DigitalOcean's catalogue says, as far as the twin has it: regions, sizes, images; and forms of its ids."""

import uuid
from collections.abc import Mapping
from typing import Final

from infra.lab.machine_root import BOOKWORM, TRIXIE, RootSpec
from infra.twin.world import NYC1, Region

REGIONS: Final[Mapping[str, Region]] = {"nyc1": NYC1}
"""Slug -> the region of the world that stands for it."""
IMAGES: Final[Mapping[str, RootSpec]] = {"debian-12-x64": BOOKWORM, "debian-13-x64": TRIXIE}
"""Slug -> the root that a droplet of this image boots."""
SIZES: Final[Mapping[str, tuple[int, int, int, float]]] = {
    "s-1vcpu-512mb-10gb": (512, 1, 10, 4.0),
    "s-1vcpu-1gb": (1024, 1, 25, 6.0),
    "s-1vcpu-2gb": (2048, 1, 50, 12.0),
    "s-2vcpu-2gb": (2048, 2, 60, 18.0),
    "s-2vcpu-4gb": (4096, 2, 80, 24.0),
}
"""Slug -> memory in MiB, CPUs, disk in GiB, price in USD a month. Source: https://slugs.do-api.dev"""
HOURS_A_MONTH: Final = 672
FIRST_NUMBER: Final = 500_000_000
_NAMESPACE: Final = uuid.UUID("6f0a3f53-6b2c-4a0e-9a55-0d1f0e6f7a11")


def number_id(number: int) -> str:
    """The id of a numbered thing, as droplets and keys have."""
    return str(FIRST_NUMBER + number)


def uuid_id(run: str, number: int) -> str:
    """The id of a thing that has a UUID, the same for the same thing."""
    return str(uuid.uuid5(_NAMESPACE, f"{run}/{number}"))


def droplet_host(number: int) -> str:
    """The host in the lab that stands for a droplet."""
    return f"droplet-{number}"
