"""Whose a table is."""

import os
import subprocess

import pytest

from tests.support.netns import in_new_namespace
from tests.ztna.io.forward.bed import nft
from ztna.io.forward.nfnetlink import list_tables
from ztna.io.forward.tables import Owner, clear_stale, others_live


def test_a_comment_is_read_as_it_was_written() -> None:
    owner = Owner.this(("ipv4", "ipv6"))
    assert owner.pid == os.getpid()
    assert Owner.of(b"\0\x20" + owner.comment.encode() + b"\0") == owner
    assert Owner.of(Owner.this(()).comment.encode()) == Owner.this(())
    assert len(owner.comment) <= 120
    assert Owner.of(b"") is None
    assert Owner.of(b"somebody else's") is None


def test_only_the_surely_dead_are_dead() -> None:
    own = Owner.this(())
    assert not own.is_dead
    assert Owner(own.pid, own.start + 1, own.pid_namespace, ()).is_dead
    assert not Owner(own.pid, own.start + 1, own.pid_namespace + 1, ()).is_dead
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert Owner(gone.pid, own.start, own.pid_namespace, ()).is_dead


@pytest.mark.lab
def test_tables_of_the_dead_and_of_our_own_socket_go_others_stay() -> None:
    def body() -> None:
        own = Owner.this(("ipv6",))
        dead = Owner(own.pid, own.start + 1, own.pid_namespace, ("ipv4",))
        for name, comment in (("1", dead.comment), ("2", own.comment), ("3", own.comment), ("4", "a stranger's")):
            nft(f'table inet ztna_relay_{name} {{ comment "{comment}"; }}')
        nft("table inet foreign { }")
        assert clear_stale("ztna_relay_2") == ("ipv4", "ipv6")
        assert set(list_tables()) == {"ztna_relay_3", "ztna_relay_4", "foreign"}
        assert others_live("ztna_relay_2")

    in_new_namespace(body)
