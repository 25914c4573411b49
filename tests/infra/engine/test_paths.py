"""Property paths: parsing, containment, keeping old values."""

from typing import Any

import pytest

from infra.engine import paths
from infra.engine.errors import EngineError


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        ("a[0].b", ("a", 0, "b")),
        ('a["c.d"].e', ("a", "c.d", "e")),
        ('["a\\"b"]', ('a"b',)),
        ("a[*].b", ("a", "*", "b")),
        ("*", ("*",)),
    ],
)
def test_a_path_is_parsed(text: str, path: paths.Path) -> None:
    assert paths.parse(text) == path


@pytest.mark.parametrize("text", ["", "a..b", "a[", "a[x]", 'a["b]', "a[-1]"])
def test_a_malformed_path_is_an_error(text: str) -> None:
    with pytest.raises(EngineError):
        paths.parse(text)


def test_a_pattern_contains_what_lies_below_it() -> None:
    assert paths.contains(("a",), ("a", "b"))
    assert paths.contains(("a", "*", "c"), ("a", 0, "c"))
    assert not paths.contains(("a", "b"), ("a",))
    assert not paths.contains(("a", "b"), ("a", "c"))


@pytest.mark.parametrize(
    ("ignored", "expected"),
    [
        (["a"], {"a": 1, "l": [9, 8], "o": {"x": 9, "y": 9}, "new": 1}),
        (["new"], {"a": 9, "l": [9, 8], "o": {"x": 9, "y": 9}}),
        (["gone"], {"a": 9, "gone": 1, "l": [9, 8], "o": {"x": 9, "y": 9}, "new": 1}),
        (["l[0]"], {"a": 9, "l": [1, 8], "o": {"x": 9, "y": 9}, "new": 1}),
        (["l[*]"], {"a": 9, "l": [1, 2], "o": {"x": 9, "y": 9}, "new": 1}),
        (["o.x"], {"a": 9, "l": [9, 8], "o": {"x": 1, "y": 9}, "new": 1}),
        (["o.nowhere.x", "absent.y"], {"a": 9, "l": [9, 8], "o": {"x": 9, "y": 9}, "new": 1}),
        (["*"], {"a": 1, "gone": 1, "l": [1, 2], "o": {"x": 1}}),
    ],
)
def test_ignored_paths_keep_the_old_value(ignored: list[str], expected: dict[str, Any]) -> None:
    old = {"a": 1, "gone": 1, "l": [1, 2], "o": {"x": 1}}
    new = {"a": 9, "l": [9, 8], "o": {"x": 9, "y": 9}, "new": 1}
    assert paths.keep_old(new, old, ignored) == expected
    assert new["a"] == 9
