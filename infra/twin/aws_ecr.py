"""Repositories of images. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service/ecr
"""

import base64
import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Iterator
from typing import Any, ClassVar, Final

from infra.engine.props import Props, secret
from infra.engine.providers import Failure
from infra.twin.aws_base import AwsType, inputs_of
from infra.twin.aws_forms import ACCOUNT, REGION, arn
from infra.twin.aws_places import images_folder
from infra.twin.forms import one_of
from infra.twin.interface import Call, Json, LeftOut, TwinError, TwinFunction, known
from infra.twin.site import Site
from infra.twin.store import Item

REPOSITORY: Final = "aws:ecr/repository:Repository"
IMAGE: Final = "aws:ecr/image:Image"
"""Not a resource of programs: what a push leaves in a repository."""
REGISTRY: Final = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"


def password(run: str) -> str:
    """What the registry's token holds."""
    return hashlib.sha256(f"ecr/{run}".encode()).hexdigest()


def push(site: Site, tag: str, digest: str, passwords: list[Any]) -> None:
    """Put an image into its repository under a tag.

    Args:
        site: the world.
        tag: REGISTRY/NAME:TAG.
        digest: of the image, which has been built.
        passwords: that are offered.

    Raises:
        TwinError: nobody logged in, there is no such repository, or the tag is taken and may not move.
    """
    name, _, word = tag.rpartition(":")
    repository = next((item for item in site.store.items(REPOSITORY) if _url(item) == name), None)
    if repository is None:
        raise TwinError(
            f"name unknown: The repository with name {name!r} does not exist in the registry with id {ACCOUNT!r}"
        )
    if password(site.run) not in passwords:
        raise TwinError(f"no basic auth credentials: the push to {name} needs the token of getAuthorizationToken")

    def fill(number: int, items: list[Item]) -> tuple[str, Json]:
        for item in items:
            taken = item.token == IMAGE and item.id == f"{repository.id}:{word}" and item.data["digest"] != digest
            if taken and inputs_of(repository)["imageTagMutability"] == "IMMUTABLE":
                raise TwinError(
                    f"tag invalid: The image tag {word!r} already exists in the {repository.id!r} repository and "
                    "cannot be overwritten because the repository is immutable."
                )
        return f"{repository.id}:{word}", {"digest": digest, "repository": repository.id, "inputs": {}}

    there = site.store.get(IMAGE, f"{repository.id}:{word}")
    if there is not None and there.data["digest"] == digest:
        return
    made = site.store.begin(f"{REGISTRY}/{repository.id}:{word}@{digest}", IMAGE, fill)
    if there is not None and made.number != there.number:
        site.store.drop(there.number)  # a tag that moves


def pushed(site: Site, tag: str) -> str:
    """The digest that a tag names; empty where there is none."""
    found = site.store.get(IMAGE, tag.removeprefix(f"{REGISTRY}/"))
    return "" if found is None else str(found.data["digest"])


def repository_of(reference: str) -> tuple[str, str]:
    """Name of the repository, and digest, of a reference REGISTRY/NAME@DIGEST."""
    name, _, digest = reference.removeprefix(f"{REGISTRY}/").partition("@")
    return name, digest


def _url(repository: Item) -> str:
    return f"{REGISTRY}/{repository.id}"


class Repository(AwsType):
    """A repository of images."""

    type_name = REPOSITORY
    model = "folders of images by digest, and the tags that name them"
    force_new = frozenset({"name", "encryptionConfigurations"})
    in_place = frozenset({"imageTagMutability", "forceDelete"})
    left_out: ClassVar = {"imageScanningConfiguration": LeftOut(why="nothing is scanned")}
    defaults: ClassVar = {"imageTagMutability": "MUTABLE"}
    autoname = "name"

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from one_of(
            "imageTagMutability", inputs.get("imageTagMutability"), ("MUTABLE", "IMMUTABLE"), "mutability"
        )

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["name"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if any(item.token == self.type_name and item.id == inputs["name"] for item in items):
            raise TwinError(
                f"RepositoryAlreadyExistsException: The repository with name {inputs['name']!r} already exists"
            )
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": arn("ecr", f"repository/{item.id}"), "registryId": ACCOUNT, "repositoryUrl": _url(item)}

    def refuse_delete(self, call: Call, item: Item) -> None:
        if self._images(call, item) and not inputs_of(item).get("forceDelete"):
            raise TwinError(
                f"RepositoryNotEmptyException: The repository with name {item.id!r} cannot be deleted: it has images"
            )

    def _images(self, call: Call, item: Item) -> list[Item]:
        return [image for image in call.site.store.items(IMAGE) if image.data["repository"] == item.id]

    def clear(self, call: Call, item: Item) -> None:
        for image in self._images(call, item):
            digest = image.data["digest"]
            call.site.store.drop(image.number)
            if not any(other.data["digest"] == digest for other in call.site.store.items(IMAGE)):
                shutil.rmtree(images_folder(call.site.run) / digest.removeprefix("sha256:"), ignore_errors=True)


class LifecyclePolicy(AwsType):
    """Which images go by themselves."""

    type_name = "aws:ecr/lifecyclePolicy:LifecyclePolicy"
    model = "a record"
    limits = ("no image expires",)
    has_tags = False
    force_new = frozenset({"repository"})
    in_place = frozenset({"policy"})

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        if known(inputs.get("policy")):
            try:
                rules = json.loads(str(inputs["policy"]))["rules"]
                priorities = [rule["rulePriority"] for rule in rules]
                wrong = [rule for rule in rules if rule["action"]["type"] != "expire" or "selection" not in rule]
            except (ValueError, KeyError, TypeError) as error:
                yield Failure("policy", f"InvalidParameterException: Lifecycle policy validation failure: {error!r}")
                return
            if wrong or len(set(priorities)) < len(priorities):
                yield Failure("policy", "InvalidParameterException: priorities are unique, and the action is expire")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["repository"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if not any(item.token == REPOSITORY and item.id == inputs["repository"] for item in items):
            raise TwinError(f"RepositoryNotFoundException: The repository {inputs['repository']!r} does not exist")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {"registryId": ACCOUNT}


class GetAuthorizationToken(TwinFunction):
    """Who may push and pull."""

    type_name = "aws:ecr/getAuthorizationToken:getAuthorizationToken"
    arguments = frozenset({"registryId", "region"})

    def call(self, site: Site, arguments: Json) -> Props:
        word = password(site.run)
        expires = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=12)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "authorizationToken": secret(base64.b64encode(f"AWS:{word}".encode()).decode()), "expiresAt": expires,
            "id": REGION, "password": secret(word), "proxyEndpoint": f"https://{REGISTRY}", "region": REGION,
            "registryId": arguments.get("registryId") or ACCOUNT, "userName": "AWS",
        }  # fmt: skip
