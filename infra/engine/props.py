"""Property values: one representation for wire, engine and state.

A value is JSON (None, bool, int, float, str, list, dict). What JSON lacks is a dict with the key SIG that says what it
is: secret, asset, archive, resource reference, output value. An unknown value (preview) is the string UNKNOWN.
The state file differs only in secrets, which hold `ciphertext` instead of `value`.
"""

import json
from collections.abc import Callable
from typing import Any

from google.protobuf import struct_pb2

Props = dict[str, Any]

SIG = "4dabf18193072939515e22adb298388d"
SECRET_SIG = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a tag, not a secret
ASSET_SIG = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE_SIG = "0def7320c3a5731c473e5ecbe6d01bc7"
RESOURCE_SIG = "5cf8f73096256a8f31e491e813e4eb8e"
OUTPUT_SIG = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

# The protocol has one unknown per type; they mean the same to an engine that does not use types.
_UNKNOWNS = frozenset(
    {
        UNKNOWN,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    }
)
_MAX_EXACT = 2.0**53


def from_struct(struct: struct_pb2.Struct) -> Props:
    """A wire struct as properties: integral doubles become ints, output values become plain, secret or unknown."""
    return {key: from_value(value) for key, value in struct.fields.items()}


def from_value(value: struct_pb2.Value) -> Any:
    """A wire value in the engine's representation."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        text = value.string_value
        return UNKNOWN if text in _UNKNOWNS else text
    if kind == "number_value":
        return number(value.number_value)
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [from_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        return _resolve_output(from_struct(value.struct_value))
    return None


def number(value: float) -> int | float:
    """JSON writes 5, not 5.0: integral doubles become ints as long as they are exact."""
    return int(value) if value.is_integer() and abs(value) < _MAX_EXACT else value


def _resolve_output(value: Props) -> Any:
    if value.get(SIG) != OUTPUT_SIG:
        return value
    inner = value.get("value", UNKNOWN)
    return secret(inner) if value.get("secret") else inner


def to_struct(props: Props) -> struct_pb2.Struct:
    """Properties as wire struct."""
    return struct_pb2.Struct(fields={key: to_value(value) for key, value in props.items()})


def to_value(value: Any) -> struct_pb2.Value:
    """A value of the engine's representation as wire value."""
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=float(value))
    if isinstance(value, str):
        return struct_pb2.Value(string_value=value)
    if isinstance(value, list):
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[to_value(item) for item in value]))
    return struct_pb2.Value(struct_value=to_struct(value))


def secret(value: Any) -> Props:
    """Marks a value secret; a secret stays as it is."""
    return value if is_secret(value) else {SIG: SECRET_SIG, "value": value}


def is_secret(value: Any) -> bool:
    """Whether the value itself is a secret."""
    return isinstance(value, dict) and value.get(SIG) == SECRET_SIG


def signature(value: Any) -> str:
    """The kind of a tagged dict; empty for plain values."""
    return str(value.get(SIG, "")) if isinstance(value, dict) else ""


def any_value(value: Any, test: Callable[[Any], bool]) -> bool:
    """Whether the value or anything inside passes the test."""
    if test(value):
        return True
    if isinstance(value, dict):
        return any(any_value(item, test) for item in value.values())
    if isinstance(value, list):
        return any(any_value(item, test) for item in value)
    return False


def has_secret(value: Any) -> bool:
    """Whether there is a secret anywhere inside."""
    return any_value(value, is_secret)


def has_unknown(value: Any) -> bool:
    """Whether there is an unknown anywhere inside."""
    return any_value(value, lambda item: isinstance(item, str) and item == UNKNOWN)


def rewrite(value: Any, visit: Callable[[Any], Any]) -> Any:
    """A copy in which `visit` has replaced every node, children first."""
    if isinstance(value, dict):
        value = {key: rewrite(item, visit) for key, item in value.items()}
    elif isinstance(value, list):
        value = [rewrite(item, visit) for item in value]
    return visit(value)


def reveal(value: Any) -> Any:
    """The value with every secret replaced by what it holds."""
    return rewrite(value, lambda item: item["value"] if is_secret(item) else item)


def plain(outputs: Props, *, show_secrets: bool) -> Props:
    """Values without tags, for people and for JSON: secrets hidden unless shown, unknowns as `[unknown]`."""

    def visit(item: Any) -> Any:
        if is_secret(item):
            return item["value"] if show_secrets else "[secret]"
        return "[unknown]" if isinstance(item, str) and item == UNKNOWN else item

    result: Props = rewrite(outputs, visit)
    return result


def for_provider(props: Props, *, secrets: bool, references: bool) -> Props:
    """What a provider is given: secrets opened and resource references reduced to ids unless it accepts them."""

    def visit(item: Any) -> Any:
        if not secrets and is_secret(item):
            return item["value"]
        if not references and signature(item) == RESOURCE_SIG:
            return (item["id"] or UNKNOWN) if "id" in item else item["urn"]
        return item

    result: Props = rewrite(props, visit)
    return result


def mark_secrets(outputs: Props, inputs: Props, additional: list[str] | tuple[str, ...] = ()) -> Props:
    """Outputs with secrets restored: where the input of the same name holds one, and where `additional` names it."""
    result = dict(outputs)
    for key, given in inputs.items():
        if key not in result or is_secret(result[key]):
            continue
        if _is_plain_object(result[key]) and _is_plain_object(given):
            result[key] = mark_secrets(result[key], given)
        elif has_secret(given):
            result[key] = secret(result[key])
    for key in additional:
        if key in result:
            result[key] = secret(result[key])
    return result


def _is_plain_object(value: Any) -> bool:
    return isinstance(value, dict) and SIG not in value


def comparable(value: Any) -> Any:
    """The value as it counts for a comparison: without secrecy; assets and archives by their hash alone."""

    def visit(item: Any) -> Any:
        if is_secret(item):
            return item["value"]
        if signature(item) in (ASSET_SIG, ARCHIVE_SIG) and item.get("hash"):
            return {SIG: item[SIG], "hash": item["hash"]}
        return item

    return rewrite(value, visit)


def changed_paths(old: Props, new: Props) -> list[str]:
    """Property paths (`a.b[0]`) where new differs from old; an unknown counts as different."""
    paths: list[str] = []
    _collect_changes("", comparable(old), comparable(new), paths)
    return paths


def _collect_changes(path: str, old: Any, new: Any, paths: list[str]) -> None:
    if _is_plain_object(old) and _is_plain_object(new):
        for key in sorted({*old, *new}):
            inner = join_path(path, key)
            if key in old and key in new:
                _collect_changes(inner, old[key], new[key], paths)
            else:
                paths.append(inner)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            inner = f"{path}[{index}]"
            if index < len(old) and index < len(new):
                _collect_changes(inner, old[index], new[index], paths)
            else:
                paths.append(inner)
    elif new == UNKNOWN or not equal(old, new):
        paths.append(path)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def join_path(path: str, key: str) -> str:
    """The path of a member: dotted when the key is a plain word, else quoted in brackets."""
    if not key or any(c in '.[]"' for c in key):
        return f"{path}[{json.dumps(key)}]"
    return f"{path}.{key}" if path else key


def equal(old: Any, new: Any) -> bool:
    """Exact equality, secrecy included (numbers by value)."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(equal(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(equal(a, b) for a, b in zip(old, new, strict=True))
    if _is_number(old) and _is_number(new):
        return bool(old == new)
    return type(old) is type(new) and bool(old == new)
