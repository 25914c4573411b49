"""Property values: marshalling, comparison, secrecy."""

from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from infra.engine import props
from infra.engine.props import ASSET_SIG, OUTPUT_SIG, RESOURCE_SIG, SIG, UNKNOWN, secret

_SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5) | st.floats(
    allow_nan=False, allow_infinity=False
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
_PROPS = st.dictionaries(st.text(max_size=3), _VALUES, max_size=4)


@given(_PROPS)
def test_values_survive_the_wire(value: dict[str, Any]) -> None:
    assert props.equal(props.from_struct(props.to_struct(value)), value)


@given(_PROPS)
def test_a_value_does_not_differ_from_itself_and_secrecy_is_no_change(value: dict[str, Any]) -> None:
    marked = {key: secret(item) for key, item in value.items()}
    assert props.changed_paths(value, value) == []
    assert props.changed_paths(value, marked) == []
    assert props.reveal(marked) == value
    assert props.has_secret(marked) == bool(value)


@given(_PROPS, _PROPS)
def test_paths_differ_exactly_when_values_do(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert bool(props.changed_paths(old, new)) == (not props.equal(old, new))


def test_output_values_become_plain_secret_or_unknown() -> None:
    wire = struct_pb2.Struct()
    json_format.ParseDict(
        {
            "known": {SIG: OUTPUT_SIG, "value": 5, "dependencies": ["urn"]},
            "hidden": {SIG: OUTPUT_SIG, "value": "s", "secret": True},
            "later": {SIG: OUTPUT_SIG},
            "number": "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        },
        wire,
    )
    assert props.from_struct(wire) == {"known": 5, "hidden": secret("s"), "later": UNKNOWN, "number": UNKNOWN}


def test_changed_paths_name_the_place() -> None:
    old = {"a": {"b": [1, 2], "c.d": 1}, "gone": 1, "n": 5}
    new = {"a": {"b": [1, 3, 4], "c.d": 2}, "new": 1, "n": 5.0}
    assert props.changed_paths(old, new) == ["a.b[1]", "a.b[2]", 'a["c.d"]', "gone", "new"]


def test_an_unknown_is_a_change_and_true_is_not_one() -> None:
    assert props.changed_paths({"a": 1}, {"a": UNKNOWN}) == ["a"]
    assert props.changed_paths({"a": UNKNOWN}, {"a": UNKNOWN}) == ["a"]
    assert props.changed_paths({"a": 1}, {"a": True}) == ["a"]


def test_assets_compare_by_hash() -> None:
    def asset(path: str, digest: str) -> dict[str, str]:
        return {SIG: ASSET_SIG, "path": path, "hash": digest}

    assert props.changed_paths({"a": asset("x", "1")}, {"a": asset("y", "1")}) == []
    assert props.changed_paths({"a": asset("x", "1")}, {"a": asset("x", "2")})


def test_a_provider_gets_open_secrets_and_ids_unless_it_accepts_more() -> None:
    reference = {SIG: RESOURCE_SIG, "urn": "urn:x", "id": "i-1"}
    given_props = {"s": secret({"r": reference}), "c": {SIG: RESOURCE_SIG, "urn": "urn:c"}}
    plain = props.for_provider(given_props, secrets=False, references=False)
    assert plain == {"s": {"r": "i-1"}, "c": "urn:c"}
    assert props.for_provider(given_props, secrets=True, references=True) == given_props
    not_yet = {"r": {**reference, "id": ""}}
    assert props.for_provider(not_yet, secrets=False, references=False) == {"r": UNKNOWN}


def test_outputs_are_marked_like_the_inputs_of_the_same_name() -> None:
    inputs = {"a": secret(1), "b": {"c": secret(2), "d": 3}, "e": [secret(4)], "f": 5}
    outputs = {"a": 1, "b": {"c": 2, "d": 3}, "e": [4], "f": 5, "g": 6}
    assert props.mark_secrets(outputs, inputs, ["g"]) == {
        "a": secret(1), "b": {"c": secret(2), "d": 3}, "e": secret([4]), "f": 5, "g": secret(6),
    }  # fmt: skip


def test_plain_values_hide_secrets_unless_shown() -> None:
    outputs = {"a": secret({"b": 1}), "c": [UNKNOWN]}
    assert props.plain(outputs, show_secrets=False) == {"a": "[secret]", "c": ["[unknown]"]}
    assert props.plain(outputs, show_secrets=True) == {"a": {"b": 1}, "c": ["[unknown]"]}


@pytest.mark.parametrize(("value", "expected"), [(5.0, 5), (-0.0, 0), (5.5, 5.5), (2.0**60, 2.0**60)])
def test_integral_doubles_become_ints_while_exact(value: float, expected: float) -> None:
    result = props.number(value)
    assert result == expected
    assert isinstance(result, int) == (value.is_integer() and abs(value) < 2**53)
