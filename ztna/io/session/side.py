"""What the sessions of both roles do alike: pass on what concerns the peer and the intermediate, and report."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from ztna.io.session.session import Session
from ztna.io.session.session_types import ControlPlane
from ztna.proto.paths.candidates import Candidate
from ztna.proto.paths.path_types import NatSeen, PathSelected

C = TypeVar("C", bound=ControlPlane)


class SessionSide(ABC, Generic[C]):
    """The part of `SessionOwner` that is the same at an agent and at a connector."""

    def __init__(self, control: C) -> None:
        self._control = control

    @property
    @abstractmethod
    def sessions(self) -> list[Session]:
        """Every session that is there now, whatever its state."""

    def session_signal(self, session: Session, candidates: Sequence[Candidate], end: bool) -> None:
        """Trickle our candidates."""
        self._control.send_candidates(session.id, candidates, end)

    def session_nat(self, session: Session, seen: NatSeen) -> None:
        """Tell the peer what our NAT does."""
        self._control.nat_report(session.id, seen.mapping, seen.filtering, seen.allocation)

    def session_path(self, session: Session, selected: PathSelected) -> None:
        """Tell the intermediate: it is one of the witnesses."""
        self._control.path_report(session.id, selected, session.rtt_s, session.core.loss)

    def session_silent(self, session: Session) -> None:
        """Nothing to be done: an agent knows whom to ask."""

    def status(self) -> list[dict[str, Any]]:
        """The sessions of /status."""
        return [session.status() for session in self.sessions]
