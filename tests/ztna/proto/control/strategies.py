"""Any control message, and bytes that nearly are one."""

from typing import Any, get_args

from hypothesis import strategies as st

from ztna.proto.control import messages as m
from ztna.proto.control.messages import ControlMessage

KINDS: tuple[type[Any], ...] = get_args(ControlMessage)

text = st.text(max_size=30)
service = st.text(max_size=20)
services = st.lists(service, max_size=4).map(tuple)
address = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
port = st.integers(0, 65535)
place = st.tuples(st.one_of(address, st.just("")), port)
session = st.binary(min_size=16, max_size=16)
secret = st.binary(min_size=32, max_size=32)
number = st.integers(0, 0xFFFFFFFF)
seconds = st.floats(0, 86400)
role = st.sampled_from(["agent", "connector"])
candidate = st.builds(
    m.Candidate,
    st.sampled_from(["host", "srflx", "prflx", "relay"]),
    address,
    st.integers(1, 65535),
    number,
    text,
    st.none() | st.tuples(address, port),
)

BY_KIND: dict[type[Any], st.SearchStrategy[Any]] = {
    m.Challenge: st.builds(m.Challenge, secret, services),
    m.Hello: st.builds(
        m.Hello,
        st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4).map(tuple),
        st.binary(min_size=1, max_size=80),
        st.integers(0, 9),
        services,
        text,
    ),
    m.Welcome: st.builds(m.Welcome, text, services, seconds, number, st.lists(place, max_size=4).map(tuple)),
    m.Register: st.builds(m.Register, role, services, number),
    m.Registered: st.builds(
        m.Registered,
        role,
        services,
        st.lists(st.builds(m.Refusal, service, text, text), max_size=3).map(tuple),
        seconds,
    ),
    m.ServiceState: st.builds(m.ServiceState, service, st.none() | text, st.integers(0, 2)),
    m.Observed: st.builds(m.Observed, address, port),
    m.Connect: st.builds(m.Connect, number, service, st.none() | session, st.none() | secret),
    m.Invite: st.builds(
        m.Invite, session, secret, text, st.one_of(st.just(""), address), services, place, st.booleans()
    ),
    m.Accept: st.builds(m.Accept, session, secret),
    m.Granted: st.builds(m.Granted, number, session, secret, text, secret, services, place),
    m.Candidates: st.builds(
        m.Candidates, session, st.lists(candidate, max_size=3).map(tuple), st.booleans(), st.floats(0, 1000)
    ),
    m.NatReport: st.builds(m.NatReport, session, text, text, text),
    m.RelayReady: st.builds(m.RelayReady, session, text),
    m.RelayLost: st.builds(m.RelayLost, session, text),
    m.PathReport: st.builds(
        m.PathReport,
        session,
        st.sampled_from(["direct", "relay", "none"]),
        text,
        text,
        st.none() | st.floats(0, 1000),
        st.floats(0, 1),
    ),
    m.Silence: st.builds(m.Silence, session),
    m.EndSession: st.builds(m.EndSession, session, text),
    m.Draining: st.builds(m.Draining, seconds),
    m.Error: st.builds(m.Error, text, text, st.none() | session, st.none() | number, st.none() | text),
}

messages: st.SearchStrategy[Any] = st.one_of(*BY_KIND.values())
