"""Sessions' side of the control connection: their candidates and paths as its messages, and back."""

from collections.abc import Callable, Sequence

from ztna.io.session.session_types import ControlPlane
from ztna.io.uplink import Uplink
from ztna.proto.control import messages
from ztna.proto.paths.candidates import Candidate, CandidateType
from ztna.proto.paths.path_types import PathSelected
from ztna.proto.paths.stun_types import Endpoint

__all__ = ["UplinkControl", "candidates_of"]


def candidates_of(received: Sequence[messages.Candidate]) -> list[Candidate]:
    """Candidates of a message as the paths take them; of a kind that is unknown here, none."""
    found = []
    for each in received:
        try:
            kind = CandidateType(each.type)
        except ValueError:
            continue
        related = None if each.related is None else Endpoint(*each.related)
        found.append(Candidate(kind, Endpoint(each.host, each.port), each.priority, each.foundation, related))
    return found


class UplinkControl(ControlPlane):
    """Sends by an uplink; what is said while it is down is counted there and lost."""

    def __init__(self, uplink: Uplink, clock: Callable[[], float]) -> None:
        self._uplink = uplink
        self._clock = clock
        self.corners: tuple[Endpoint, ...] = ()

    @property
    def relay_host(self) -> str:
        """The address of the intermediate that was dialled."""
        return "" if self._uplink.relay_address is None else self._uplink.relay_address[0]

    def connect(self, service: str, session: tuple[bytes, bytes] | None) -> None:
        """Ask for a session with the service's connector; `session` is the id and key of one that we have with it."""
        named = {} if session is None else {"session": session[0], "key": session[1]}
        self._uplink.sessions.connect(service, self._clock(), **named)
        self._uplink.say()

    def accept(self, session: bytes, nonce: bytes) -> None:
        """Take an invitation."""
        self._uplink.sessions.accept(session, nonce, self._clock())
        self._uplink.say()

    def decline(self, session: bytes, code: str, text: str) -> None:
        """Refuse an invitation."""
        self._uplink.sessions.decline(session, code, text, self._clock())
        self._uplink.say()

    def send_candidates(self, session: bytes, candidates: Sequence[Candidate], end: bool) -> None:
        """Trickle candidates to the peer."""
        said = [
            messages.Candidate(
                each.type.value,
                each.endpoint.host,
                each.endpoint.port,
                each.priority,
                each.foundation,
                None if each.related is None else (each.related.host, each.related.port),
            )
            for each in candidates
        ]
        self._uplink.sessions.send_candidates(session, said, end, self._clock())
        self._uplink.say()

    def nat_report(self, session: bytes, mapping: str, filtering: str, allocation: str) -> None:
        """Tell the peer what our NAT does."""
        self._uplink.sessions.nat_report(session, mapping, filtering, allocation, self._clock())
        self._uplink.say()

    def path_report(self, session: bytes, selected: PathSelected, rtt_s: float | None, loss: float) -> None:
        """Tell the intermediate which path is used."""
        peer = "" if selected.remote is None else str(selected.remote)
        rtt_ms = None if rtt_s is None else rtt_s * 1000
        self._uplink.sessions.path_report(
            session, selected.kind.value, peer, selected.reason, rtt_ms, loss, self._clock()
        )
        self._uplink.say()

    def silence(self, session: bytes) -> None:
        """Nothing of the session's connector arrives."""
        self._uplink.sessions.silence(session, self._clock())
        self._uplink.say()

    def end_session(self, session: bytes, reason: str) -> None:
        """The session is over."""
        self._uplink.sessions.end_session(session, reason, self._clock())
        self._uplink.say()
