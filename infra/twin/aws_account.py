"""What of AWS is records: roles, log groups, secrets, parameters. Force-new by the provider's source.

Source: https://github.com/hashicorp/terraform-provider-aws/tree/main/internal/service (iam, logs, secretsmanager, ssm)
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Final

from infra.engine.props import Props, secret
from infra.engine.providers import Failure
from infra.twin.aws_base import AwsType, inputs_of
from infra.twin.aws_forms import REGION, arn, digits, not_kept
from infra.twin.aws_instance import PARAMETERS
from infra.twin.aws_places import log_folder
from infra.twin.forms import now
from infra.twin.interface import Call, Json, LeftOut, TwinError, TwinFunction, known
from infra.twin.site import Site
from infra.twin.store import Item

ROLE: Final = "aws:iam/role:Role"
ROLE_POLICY: Final = "aws:iam/rolePolicy:RolePolicy"
LOG_GROUP: Final = "aws:cloudwatch/logGroup:LogGroup"
SECRET: Final = "aws:secretsmanager/secret:Secret"  # noqa: S105 - a type
SECRET_VERSION: Final = "aws:secretsmanager/secretVersion:SecretVersion"  # noqa: S105 - a type
LARGEST_SECRET_BYTES: Final = 65_536
_UUIDS: Final = uuid.UUID("0b9d1b0e-5f0f-4f6c-9a5c-0f7f2a3f6f11")


def policy_failures(name: str, text: object) -> Iterator[Failure]:
    """Yield what IAM refuses of a policy document."""
    if not known(text):
        return
    try:
        document = json.loads(str(text))
        statements = document["Statement"]
        for statement in statements if isinstance(statements, list) else [statements]:
            if statement["Effect"] not in ("Allow", "Deny") or not ({"Action", "NotAction"} & set(statement)):
                yield Failure(name, "MalformedPolicyDocument: a statement has an Effect, Allow or Deny, and an Action")
    except (ValueError, KeyError, TypeError) as error:
        yield Failure(name, f"MalformedPolicyDocument: {error!r}")


def allows(items: list[Item], role_arn: str, action: str, resource: str) -> bool:
    """Whether the policies of a role let an action be done to a resource; conditions are passed over."""
    names = {
        inputs_of(item)["name"]
        for item in items
        if item.token == ROLE and role_arn.endswith(f"/{inputs_of(item)['name']}")
    }
    allowed = False
    for item in items:
        if item.token == ROLE_POLICY and inputs_of(item)["role"] in names:
            for statement in _listed(json.loads(inputs_of(item)["policy"])["Statement"]):
                actions, resources = _listed(statement.get("Action", [])), _listed(statement.get("Resource", []))
                fits = any(fnmatchcase(action.lower(), str(each).lower()) for each in actions)
                if fits and any(fnmatchcase(resource, str(each)) for each in resources):
                    if statement["Effect"] == "Deny":
                        return False
                    allowed = True
    return allowed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Role(AwsType):
    """A role."""

    type_name = ROLE
    model = "a record; the role that starts a task must be allowed what that takes"
    limits = ("of policies, actions and resources count, conditions do not",)
    has_region = False
    force_new = frozenset({"name", "namePrefix", "path"})
    in_place = frozenset({"assumeRolePolicy", "description", "maxSessionDuration", "forceDetachPolicies"})
    defaults: ClassVar = {"path": "/", "maxSessionDuration": 3600, "forceDetachPolicies": False}
    autoname = "name"

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from policy_failures("assumeRolePolicy", inputs.get("assumeRolePolicy"))
        if known(name := inputs.get("name")) and not 1 <= len(str(name)) <= 64:
            yield Failure("name", f"ValidationError: a role's name has 1 to 64 characters: {name!r}")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["name"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if any(item.token == self.type_name and item.id == inputs["name"] for item in items):
            raise TwinError(f"EntityAlreadyExists: Role with name {inputs['name']} already exists.")
        return {"created": now()}

    def outputs(self, call: Call, item: Item) -> Json:
        inputs = inputs_of(item)
        return {
            "arn": arn("iam", f"role{inputs['path']}{item.id}", region=""), "createDate": item.data["created"],
            "uniqueId": f"AROA{digits(call.site.run, item.number).upper()}",
            "inlinePolicies": [], "managedPolicyArns": [],
        }  # fmt: skip

    def refuse_delete(self, call: Call, item: Item) -> None:
        if any(inputs_of(policy)["role"] == item.id for policy in call.site.store.items(ROLE_POLICY)):
            raise TwinError(f"DeleteConflict: Cannot delete entity {item.id}, must delete policies first.")


class RolePolicy(AwsType):
    """A policy in a role."""

    type_name = ROLE_POLICY
    model = "a record that the start of a task is held against"
    has_tags = has_region = False
    force_new = frozenset({"name", "namePrefix", "role"})
    in_place = frozenset({"policy"})
    autoname = "name"

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        yield from policy_failures("policy", inputs.get("policy"))

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return f"{inputs['role']}:{inputs['name']}"

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if not any(item.token == ROLE and item.id == inputs["role"] for item in items):
            raise TwinError(f"NoSuchEntity: The role with name {inputs['role']} cannot be found.")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {}


class LogGroup(AwsType):
    """Where tasks log to."""

    type_name = LOG_GROUP
    model = "a folder with a file for each task, in the run's folder of logs"
    force_new = frozenset({"name", "namePrefix", "logGroupClass"})
    left_out: ClassVar = {
        "retentionInDays": LeftOut(why="lines are kept as long as the world is there"),
        "skipDestroy": not_kept("logs go with the group"),
    }
    autoname = "name"

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return str(inputs["name"])

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if any(item.token == self.type_name and item.id == inputs["name"] for item in items):
            raise TwinError("ResourceAlreadyExistsException: The specified log group already exists")
        return {}

    def apply(self, call: Call, item: Item) -> None:
        log_folder(call.site.run, item.id).mkdir(parents=True, exist_ok=True)

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": arn("logs", f"log-group:{item.id}"), "logGroupClass": "STANDARD"}

    def clear(self, call: Call, item: Item) -> None:
        shutil.rmtree(log_folder(call.site.run, item.id), ignore_errors=True)


class Secret(AwsType):
    """A secret, whose values are versions."""

    type_name = SECRET
    model = "a record in the run's folder, readable by root alone"
    force_new = frozenset({"name", "namePrefix"})
    in_place = frozenset({"description"})
    left_out: ClassVar = {
        "recoveryWindowInDays": LeftOut(why="a deleted secret is gone at once", harmless=(None, 0)),
        "kmsKeyId": not_kept("it is not encrypted"),
    }
    defaults: ClassVar = {"recoveryWindowInDays": 30}
    autoname = "name"

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return arn("secretsmanager", f"secret:{inputs['name']}-{digits(call.site.run, number, 6)}")

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if any(item.token == self.type_name and inputs_of(item)["name"] == inputs["name"] for item in items):
            raise TwinError(f"ResourceExistsException: the secret {inputs['name']} already exists")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        return {"arn": item.id, "policy": "", "replicas": []}

    def applied(self, call: Call, item: Item) -> None:
        # All versions go with it, also those that the program let go of without a deletion.
        for version in call.site.store.items(SECRET_VERSION):
            if inputs_of(version)["secretId"] == item.id:
                call.site.store.drop(version.number)


class SecretVersion(AwsType):
    """A value of a secret."""

    type_name = SECRET_VERSION
    model = "a record in the run's folder, readable by root alone"
    has_tags = False
    force_new = frozenset({"secretId", "secretString"})
    wanted = ("secretString",)
    secret_outputs: ClassVar = ("secretString",)

    def check_inputs(self, inputs: Json) -> Iterator[Failure]:
        if known(text := inputs.get("secretString")) and not 1 <= len(str(text).encode()) <= LARGEST_SECRET_BYTES:
            yield Failure("secretString", f"ValidationException: a secret has 1 to {LARGEST_SECRET_BYTES} bytes")

    def identify(self, call: Call, number: int, inputs: Json) -> str:
        return f"{inputs['secretId']}|{uuid.uuid5(_UUIDS, f'{call.site.run}/{number}')}"

    def begin(self, call: Call, number: int, inputs: Json, items: list[Item]) -> Json:
        if not any(item.token == SECRET and item.id == inputs["secretId"] for item in items):
            raise TwinError("ResourceNotFoundException: Secrets Manager can't find the specified secret.")
        return {}

    def outputs(self, call: Call, item: Item) -> Json:
        secret_id, _, version = item.id.partition("|")
        return {
            "arn": secret_id, "secretArn": secret_id, "versionId": version, "versionStages": ["AWSCURRENT"],
            "hasSecretStringWo": False, "secretBinary": "",
        }  # fmt: skip


def secret_value(items: list[Item], reference: str) -> str:
    """Return what a task's reference (ARN, or ARN:KEY:STAGE:VERSION) names.

    Raises:
        TwinError: there is no such version.
    """
    base = ":".join(reference.split(":")[:7])
    key, _, version = [*reference.split(":")[7:], "", "", ""][:3]
    found = [
        item
        for item in items
        if item.token == SECRET_VERSION
        and inputs_of(item)["secretId"] == base
        and version in ("", item.id.partition("|")[2])
    ]
    if not found:
        raise TwinError(
            f"ResourceNotFoundException: Secrets Manager can't find the specified secret value: {reference}"
        )
    text = str(inputs_of(found[-1])["secretString"])
    return str(json.loads(text)[key]) if key else text


class GetParameter(TwinFunction):
    """The public parameters that hold ids of images."""

    type_name = "aws:ssm/getParameter:getParameter"
    arguments = frozenset({"name", "withDecryption", "region"})

    def call(self, site: Site, arguments: Json) -> Props:
        name = str(arguments["name"])
        if name not in PARAMETERS:
            raise TwinError(
                f"the twin has no root for the image of {name}; it has {', '.join(PARAMETERS)}: choose one as "
                "amiParameter in the stack's configuration (docs/twin.md)"
            )
        return {
            "arn": arn("ssm", f"parameter{name}", account=""), "id": name, "name": name,
            "insecureValue": PARAMETERS[name], "region": REGION, "type": "String", "version": 1,
            "value": secret(PARAMETERS[name]), "withDecryption": bool(arguments.get("withDecryption")),
        }  # fmt: skip
