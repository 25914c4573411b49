"""Former URNs of a resource."""

from infra.engine.aliases import Alias, expand

STACK = "urn:pulumi:dev::p::pulumi:pulumi:Stack::p-dev"
NEW = "urn:pulumi:dev::p::a:b:C::new"
OLD = "urn:pulumi:dev::p::a:b:C::old"
CHILD = "urn:pulumi:dev::p::a:b:C$x:y:Z::new-child"


def test_what_an_alias_leaves_out_is_as_it_is_now() -> None:
    aliases = [Alias(name="n"), Alias(type="t:u:V"), Alias(stack="s", project="q"), Alias(no_parent=True)]
    assert expand(CHILD, NEW, aliases, {}) == [
        "urn:pulumi:dev::p::a:b:C$x:y:Z::n",
        "urn:pulumi:dev::p::a:b:C$t:u:V::new-child",
        "urn:pulumi:s::q::a:b:C$x:y:Z::new-child",
        "urn:pulumi:dev::p::x:y:Z::new-child",
    ]


def test_a_parents_renaming_is_inherited_by_a_name_made_from_the_parents() -> None:
    assert expand(CHILD, NEW, [], {NEW: OLD}) == ["urn:pulumi:dev::p::a:b:C$x:y:Z::old-child"]
    other = "urn:pulumi:dev::p::a:b:C$x:y:Z::other"
    assert expand(other, NEW, [Alias(name="new-x")], {NEW: OLD}) == [
        "urn:pulumi:dev::p::a:b:C$x:y:Z::new-x",
        "urn:pulumi:dev::p::a:b:C$x:y:Z::old-x",
    ]


def test_a_parents_changed_type_changes_the_childs_urn() -> None:
    former = "urn:pulumi:dev::p::k:l:M::new"
    assert expand(CHILD, NEW, [], {NEW: former}) == ["urn:pulumi:dev::p::k:l:M$x:y:Z::new-child"]


def test_a_former_parent_is_taken_by_its_own_former_urn() -> None:
    moved = "urn:pulumi:dev::p::x:y:Z::z"
    assert expand(moved, STACK, [Alias(parent=NEW)], {NEW: OLD}) == ["urn:pulumi:dev::p::a:b:C$x:y:Z::z"]
    assert expand(moved, STACK, [Alias(urn=OLD)], {}) == [OLD]
    assert expand(moved, STACK, [Alias(no_parent=True)], {}) == []
