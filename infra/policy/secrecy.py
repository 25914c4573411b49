"""Rules about secrets: not where others read them, and marked where they must be."""

import base64
import binascii
import gzip
from collections.abc import Iterator
from typing import Any, Final

import yaml

from infra.graph import UNKNOWN, Graph, Node, is_secret, reveal
from infra.policy.detect import PRIVATE_KEY, secret_in
from infra.policy.model import Finding
from infra.policy.values import get, texts
from infra.policy.workloads import containers

USER_DATA_KEYS: Final = ("userData", "userDataBase64")
BOOTSTRAP_KEYS: Final = ("ed25519_private", "ecdsa_private", "rsa_private")
"""The exception: one-time host keys of sshd under `ssh_keys` of a cloud-config (docs/security.md)."""

SECRET_INPUTS: Final = {
    "kubernetes:core/v1:Secret": ("data", "stringData"),
    "aws:secretsmanager/secretVersion:SecretVersion": ("secretString", "secretBinary"),
    "aws:ssm/parameter:Parameter": ("value",),
}
"""Inputs which are there to hold secrets, by type."""

READABLE: Final = ("kubernetes:core/v1:ConfigMap",)
"""Types that everybody near can read as a whole."""


def no_plain_secrets(graph: Graph) -> list[Finding]:
    """User data, environments, command lines, ConfigMaps, labels and tags hold no secret, marked or not."""
    found = []
    for node in graph.nodes:
        for path, text, name in _readable(node):
            kind = secret_in(text, name)
            if kind is not None:
                message = f"{path} holds {kind}, and whoever can look at the resource reads it"
                found.append(Finding("no-plain-secrets", node.urn, message, _remedy(path)))
    return found


def _remedy(path: str) -> str:
    if path in USER_DATA_KEYS:
        return "send it with the release, over SSH; user data is readable from the host's metadata service"
    return "put it in a Secret (Kubernetes) or in Secrets Manager (ECS `secrets`) and refer to it"


def _readable(node: Node) -> Iterator[tuple[str, str, str]]:
    """Yield (path, text, name) of what others can read of a resource."""
    for key in USER_DATA_KEYS:
        for text in _user_data(get(node, key)):
            yield key, text, ""
    if node.type in READABLE:
        for path, text, _ in texts(reveal({key: node.inputs.get(key) for key in ("data", "binaryData")})):
            yield path, _decoded(text) if path.startswith("binaryData") else text, path.rpartition(".")[2]
    for container in containers(node):
        for entry in container.environment:
            value = entry.get("value")
            if isinstance(value, str) and value != UNKNOWN:
                yield f"{container.path}.env.{entry.get('name')}", value, str(entry.get("name"))
        for index, word in enumerate(container.command):
            if word != UNKNOWN:
                yield f"{container.path}.command[{index}]", word, ""
    for path in ("tags", "metadata.labels", "metadata.annotations", "buildArgs", "description"):
        for where, text, _ in texts(get(node, path), path):
            yield where, text, where.rpartition(".")[2]


def _user_data(value: Any) -> Iterator[str]:
    """Yield the texts in user data, without the bootstrap host keys of a cloud-config."""
    if not isinstance(value, str) or value == UNKNOWN:
        return
    text = value if value.startswith(("#", "Content-Type", "MIME")) else _decoded(value)
    try:
        config = yaml.safe_load(text) if text.startswith("#cloud-config") else text
    except yaml.YAMLError:
        config = text
    if not isinstance(config, dict):
        yield text
        return
    keys = config.get("ssh_keys")
    if isinstance(keys, dict):
        config["ssh_keys"] = {key: item for key, item in keys.items() if key not in BOOTSTRAP_KEYS}
    for path, item, _ in texts(config):
        yield _decoded(item) if path.startswith("write_files") else item


def _decoded(text: str) -> str:
    """Return base64 text, gzipped or not, as what it says; anything else as it is."""
    try:
        raw = base64.b64decode("".join(text.split()), validate=True)
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    except (binascii.Error, ValueError, OSError, EOFError):
        return text


def secrets_marked(graph: Graph) -> list[Finding]:
    """What holds a secret is marked secret, so that state and logs have ciphertext."""
    found = []
    for node in graph.nodes:
        for path in _unmarked(node):
            message = f"{path} is not marked secret, so the state file holds it in plain text"
            found.append(Finding("secrets-are-marked", node.urn, message, "wrap it in pulumi.Output.secret(...)"))
    return found


def _unmarked(node: Node) -> Iterator[str]:
    """Yield paths of inputs that must be marked and are not."""
    wanted = SECRET_INPUTS.get(node.type, ())
    if node.type == "aws:ssm/parameter:Parameter" and get(node, "type") != "SecureString":
        wanted = ()
    for key in wanted:
        value = node.inputs.get(key)
        if value is not None and not is_secret(value) and not _all_marked(value):
            yield key
    for path, text, secret in texts(node.inputs):
        top = path.split(".")[0].split("[")[0]
        if not secret and top not in wanted and secret_in(_decoded_if_user_data(path, text)) == PRIVATE_KEY:
            yield path


def _all_marked(value: Any) -> bool:
    return isinstance(value, dict) and all(is_secret(item) for item in value.values())


def _decoded_if_user_data(path: str, text: str) -> str:
    return _decoded(text) if path in USER_DATA_KEYS else text


def outputs_marked(graph: Graph) -> list[Finding]:
    """No output of the stack holds a secret in plain text."""
    return [
        Finding(
            "outputs-are-marked",
            graph.nodes[0].urn if graph.nodes else graph.stack,
            f"output {path} holds {kind} and is not marked secret",
            "export it under one of the secret keys of the outputs",
        )
        for path, text, secret in texts(graph.outputs)
        if not secret and (kind := secret_in(text)) in _SURE
    ]


_SURE: Final = (PRIVATE_KEY, "a DigitalOcean token", "an AWS access key id", "a GitHub token", "a Pulumi access token")
"""Kinds that need no guess: outputs are full of digests and addresses."""
