"""The forms of the API that need no state: errors, regions, sizes, addresses."""

import ipaddress
from typing import Any

Json = dict[str, Any]

REGIONS = ("nyc1", "nyc3", "ams3", "fra1", "lon1", "sfo3", "sgp1", "tor1")
SIZES: dict[str, tuple[int, int, int, float]] = {
    "s-1vcpu-512mb-10gb": (512, 1, 10, 4.0),
    "s-1vcpu-1gb": (1024, 1, 25, 6.0),
    "s-1vcpu-2gb": (2048, 1, 50, 12.0),
    "s-2vcpu-2gb": (2048, 2, 60, 18.0),
    "s-2vcpu-4gb": (4096, 2, 80, 24.0),
}
"""Memory in MiB, CPUs, disk in GiB, price in USD a month."""
IMAGES = ("ubuntu-24-04-x64", "ubuntu-22-04-x64", "debian-12-x64")


class ApiError(Exception):
    """An answer that is no success: status, the API's word for it, and a sentence."""

    def __init__(self, status: int, word: str, message: str) -> None:
        super().__init__(message)
        self.status, self.word, self.message = status, word, message


def not_found() -> ApiError:
    """What the API says of an unknown id."""
    return ApiError(404, "not_found", "The resource you were accessing could not be found.")


def unprocessable(message: str) -> ApiError:
    """What the API says of a request that it understands and refuses."""
    return ApiError(422, "unprocessable_entity", message)


def require_region(slug: str) -> None:
    """Refuse a region that there is not."""
    if slug not in REGIONS:
        raise unprocessable("The region is not available.")


def region_of(slug: str) -> Json:
    """A region as the API shows it."""
    features = ["backups", "ipv6", "metadata", "storage"]
    return {"slug": slug, "name": slug.upper(), "available": True, "sizes": list(SIZES), "features": features}


def size_of(slug: str) -> Json:
    """A size as the API shows it. Raises ApiError for an unknown one."""
    if slug not in SIZES:
        raise unprocessable("You specified an invalid size for Droplet creation.")
    memory, vcpus, disk, price = SIZES[slug]
    return {
        "slug": slug,
        "memory": memory,
        "vcpus": vcpus,
        "disk": disk,
        "transfer": 1.0,
        "price_monthly": price,
        "price_hourly": round(price / 672, 5),
        "regions": list(REGIONS),
        "available": True,
        "description": "Basic",
    }


def networks(public: str, vpc_range: str, at: int, has_v6: bool) -> Json:
    """The addresses of a droplet: the public one as configured, a private one of its VPC."""
    private = ipaddress.IPv4Network(vpc_range)
    v4 = [
        {"ip_address": public, "netmask": "255.255.240.0", "gateway": "192.0.2.1", "type": "public"},
        {
            "ip_address": str(private[2 + at]),
            "netmask": str(private.netmask),
            "gateway": str(private[1]),
            "type": "private",
        },
    ]
    return {"v4": v4, "v6": [v6(at)] if has_v6 else []}


def v6(at: int) -> Json:
    """A public IPv6 address of the documentation range (RFC 3849)."""
    return {"ip_address": f"2001:db8::{at + 2:x}", "netmask": 64, "gateway": "2001:db8::1", "type": "public"}
