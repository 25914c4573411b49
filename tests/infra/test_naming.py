"""Names: what may be one, and the identities made of them."""

import re
from pathlib import Path

import pytest

from infra.naming import check_label, child_name, component_token, grant_name, run_name, spiffe_id, tag_list, tags


def test_identities_have_the_form_that_certificates_carry() -> None:
    assert spiffe_id("lab", "connector", "home-1") == "spiffe://lab/connector/home-1"
    assert grant_name("agent", "echo-service") == "agent.echo-service.ztna"
    assert grant_name("connector", "*") == "connector.*.ztna"


def test_resources_are_called_after_their_parent() -> None:
    assert component_token("LabPki") == "ztna:components:LabPki"
    assert child_name("pki", "ca") == "pki-ca"


@pytest.mark.parametrize("name", ["", "Lab", "1lab", "lab-", "-lab", "a.b", "a/b", "a b", "x" * 33, "a\n"])
def test_what_is_no_label_is_refused_and_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"^stack ") as failure:
        spiffe_id(name, "agent", "a")
    assert repr(name) in str(failure.value)


@pytest.mark.parametrize("name", ["a", "lab", "lab-2", "x" * 32])
def test_labels_are_returned_as_they_are(name: str) -> None:
    assert check_label(name, "stack") == name


def test_a_wildcard_is_no_role() -> None:
    with pytest.raises(ValueError, match=r"^role "):
        grant_name("*", "echo-service")


def test_a_run_is_called_after_its_stack_and_its_checkout(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert run_name("lab", tmp_path).startswith("lab-")
    assert run_name("lab", tmp_path) == run_name("lab", tmp_path / "link")
    assert run_name("lab", tmp_path) != run_name("lab", tmp_path / "other")
    assert check_label(run_name("x" * 24 + "-yyyyyyy", tmp_path), "run").startswith("x" * 24)


def test_tags_say_whose_a_resource_is() -> None:
    assert tags("do-nyc1", "blue", "relay") == {
        "project": "ztna", "stack": "do-nyc1", "run": "blue", "component": "relay",
    }  # fmt: skip
    listed = tag_list("do-nyc1", "blue", "relay")
    assert listed == ["project:ztna", "stack:do-nyc1", "run:blue", "component:relay"]
    assert all(re.fullmatch(r"[A-Za-z0-9:_-]{1,255}", tag) for tag in listed), "what DigitalOcean allows"


def test_a_tag_that_is_no_label_is_refused_by_its_key() -> None:
    with pytest.raises(ValueError, match=r"^component 'a b' is not usable"):
        tags("do-nyc1", "blue", "a b")
