"""Any order of inputs: nothing is raised, bounds hold, and nothing is left behind."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ztna.proto.intermediate_bed import Bed, agent, connector, document, from_echo, to_echo
from ztna.proto.limits import IntermediateLimits
from ztna.proto.policy import Policy
from ztna.proto.signalling import CandidateAnswer, CandidateOffer, encode_frame
from ztna.proto.wire import RegisterAgent, RegisterConnector

inputs = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 4), st.sampled_from(["agent-1", "agent-2", "connector", "other", None])),
    st.tuples(st.just("close"), st.integers(0, 4), st.none()),
    st.tuples(st.just("agent"), st.integers(0, 4), st.sampled_from(["echo", "http", "nope"])),
    st.tuples(st.just("connector"), st.integers(0, 4), st.sampled_from(["echo", "http"])),
    st.tuples(st.just("packet"), st.integers(0, 4), st.integers(1, 3)),
    st.tuples(st.just("reply"), st.integers(0, 4), st.integers(1, 3)),
    st.tuples(st.just("bytes"), st.integers(0, 4), st.binary(max_size=40)),
    st.tuples(st.just("stream"), st.integers(0, 4), st.binary(max_size=40)),
    st.tuples(st.just("offer"), st.integers(0, 4), st.integers(1, 2)),
    st.tuples(st.just("answer"), st.integers(0, 4), st.integers(1, 2)),
    st.tuples(st.just("policy"), st.booleans(), st.none()),
    st.tuples(st.just("wait"), st.integers(0, 400), st.none()),
)


def _apply(bed: Bed, step: tuple[str, int, object]) -> None:
    kind, conn, value = step
    if kind == "open":
        name = value if isinstance(value, str) else None
        bed.open(conn, None if name is None else agent(name) if name.startswith("agent") else connector(name))
    elif kind == "close":
        bed.close(conn)
    elif kind == "agent":
        bed.core.datagram_received(conn, RegisterAgent(str(value)).encode(), bed.now)
    elif kind == "connector":
        bed.core.datagram_received(conn, RegisterConnector(str(value)).encode(), bed.now)
    elif kind == "packet":
        assert isinstance(value, int)
        bed.core.datagram_received(conn, b"\x2f\x04echo" + to_echo(0x64400100 + value), bed.now)
    elif kind == "reply":
        assert isinstance(value, int)
        bed.core.datagram_received(conn, from_echo(0x64400100 + value), bed.now)
    elif kind == "bytes":
        assert isinstance(value, bytes)
        bed.core.datagram_received(conn, value, bed.now)
    elif kind == "stream":
        assert isinstance(value, bytes)
        bed.core.stream_received(conn, len(value) % 5, value, len(value) % 7 == 0, bed.now)
    elif kind in ("offer", "answer"):
        assert isinstance(value, int)
        message = CandidateOffer(value, "echo", ()) if kind == "offer" else CandidateAnswer(value, ())
        bed.core.stream_received(conn, 0, encode_frame(message), False, bed.now)
    elif kind == "policy":
        changed = document(revoked=["spiffe://lab/agent/agent-1"]) if conn else document()
        bed.core.set_policy(Policy.from_json(changed), bed.now)
    else:
        bed.at(bed.now + conn)


@settings(max_examples=200, deadline=None)
@given(st.lists(inputs, max_size=60), st.booleans())
def test_any_order_of_inputs_leaves_nothing_behind(steps: list[tuple[str, int, object]], allow_anonymous: bool) -> None:
    bed = Bed(allow_anonymous=allow_anonymous, limits=IntermediateLimits(flows=4, flows_per_agent=3, sessions=3))
    for step in steps:
        _apply(bed, step)
        bed.take()
        assert bed.core.flows <= 4
        assert bed.core.sessions <= 3
    for conn in range(5):
        bed.close(conn)
    assert bed.core.services() == {}
    bed.at(bed.now + 10000.0)
    assert (bed.core.connections, bed.core.flows, bed.core.sessions, bed.core.get_timer()) == (0, 0, 0, None)
