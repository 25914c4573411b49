"""A role of `ztna` that has been tampered with: `python -m tests.lab.scenarios.tampered HOW[,HOW...] ROLE ...`.

Packets, protocol and configuration are those of the real role; what is changed is what it says.

    claims-direct   an end: its status and its log call every path direct
    claims-relay    an end: its status and its log call every path relayed
    counts-nothing  the intermediate: its counts of relayed packets stand still
    mute            an end: it names no address to its peer and sends it no check
"""

import dataclasses
import sys
from typing import Any

from ztna.io import relay
from ztna.io.session import session, session_status
from ztna.proto.paths import outbound, parts
from ztna.proto.paths.path_types import PathKind


def replace(where: Any, name: str, by: Any) -> None:
    """Put something in the place of what has this name."""
    setattr(where, name, by)


def claims(kind: PathKind) -> None:
    """Every path is of this kind, as far as the status goes, with all that would belong to it."""
    honest, honest_selected = session_status.session_status, session.Session._path_selected

    def status(of: session.Session) -> dict[str, Any]:
        page = honest(of)
        if page["path"] == PathKind.NONE.value:
            return page
        count = {way: sum(page["bytes"][name][way] for name in page["bytes"]) for way in ("sent", "received")}
        nothing = dict.fromkeys(count, 0)
        page |= {"path": kind.value, "reason": "check-succeeded", "blocked_by": None, "evidence": "", "advice": ""}
        page["bytes"] = {name: count if name == kind.value else nothing for name in page["bytes"]}
        return page

    def selected(self: session.Session, command: Any, now: float) -> None:
        told = dataclasses.replace(command, kind=kind) if command.kind is not PathKind.NONE else command
        honest_selected(self, told, now)

    replace(session, "session_status", status)
    replace(session.Session, "_path_selected", selected)


def counts_nothing() -> None:
    """Nothing was relayed."""
    honest = relay.Relay._session_status

    def status(self: relay.Relay, view: Any) -> dict[str, Any]:
        page = honest(self, view)
        return page | {name: dict.fromkeys(page[name], 0) for name in ("packets", "bytes")}

    replace(relay.Relay, "_session_status", status)


def mute() -> None:
    """No candidates go out by the control connection, and no checks to the peer."""

    def no_candidates(_self: parts.Parts, _candidates: Any) -> None:
        return

    def no_check(self: outbound.Outbound, pair: Any, now: float) -> None:
        self.parts.checklist.sent(pair, now, busy=False)

    replace(parts.Parts, "tell", no_candidates)
    replace(outbound.Outbound, "_send_check", no_check)


def main() -> None:
    """Tamper, then be the role."""
    from ztna.cli import main as role

    for how in sys.argv.pop(1).split(","):
        {
            "claims-direct": lambda: claims(PathKind.DIRECT),
            "claims-relay": lambda: claims(PathKind.RELAY),
            "counts-nothing": counts_nothing,
            "mute": mute,
        }[how]()
    role()


if __name__ == "__main__":
    main()
