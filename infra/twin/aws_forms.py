"""Forms of AWS: ids, ARNs, the account, regions and zones, as far as the twin has them."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from infra.twin.interface import Json, LeftOut
from infra.twin.world import US_EAST_2, Region

ACCOUNT: Final = "123456789012"
"""The number that AWS's own examples have."""
REGIONS: Final[Mapping[str, Region]] = {"us-east-2": US_EAST_2}
ZONES: Final = tuple(f"{region}{letter}" for region in REGIONS for letter in "abc")
REGION: Final = "us-east-2"
HEX: Final = 17
"""Digits in the ids of EC2."""


def digits(run: str, number: int, length: int = HEX) -> str:
    """Hex digits that are the same for the same thing."""
    return hashlib.sha256(f"{run}/{number}".encode()).hexdigest()[:length]


def hex_id(prefix: str, run: str, number: int) -> str:
    """The id of a thing of EC2, as in vpc-0a1b..."""
    return f"{prefix}-{digits(run, number)}"


def arn(service: str, resource: str, region: str = REGION, account: str = ACCOUNT) -> str:
    """Return an ARN. Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html"""
    return f"arn:aws:{service}:{region}:{account}:{resource}"


def ec2_arn(kind: str, id_: str) -> str:
    """The ARN of a thing of EC2."""
    return arn("ec2", f"{kind}/{id_}")


def tagged(inputs: Json) -> Json:
    """The output of all tags: those of the resource, as the twin's provider has no default ones."""
    return {"tagsAll": dict(inputs.get("tags") or {})}


def not_kept(why: str, *harmless: Any) -> LeftOut:
    """A property without effect; `harmless` are further values that ask for nothing."""
    return LeftOut(why=why, harmless=(None, False, "", 0, [], {}, *harmless))
