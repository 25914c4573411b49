"""Every DATAGRAM message: the worked vectors, round trips, and nothing but WireError for anything else."""

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztna.proto.errors import LocalProtocolError, ServiceIdError, WireError
from ztna.proto.wire import (
    Message,
    MessageType,
    NackStatus,
    ObservedAddress,
    RawPacket,
    RegisterAgent,
    RegisterConnector,
    RegistrationAck,
    RegistrationNack,
    ServiceRouted,
    decode,
    service_routed_prefix,
    split_service_routed,
)

ECHO_REQUEST = bytes.fromhex("45000020 0000 4000 40 01 cc37 64400001 0a640001 08 00 192d 0001 0001 70696e67")

VECTORS = [
    ("01 cb 00 71 05 d4 31", ObservedAddress("203.0.113.5", 54321)),
    ("10 0c 65 63 68 6f 2d 73 65 72 76 69 63 65", RegisterAgent("echo-service")),
    ("11 0c 65 63 68 6f 2d 73 65 72 76 69 63 65", RegisterConnector("echo-service")),
    ("12 00 0c 74 65 73 74 2d 73 65 72 76 69 63 65", RegistrationAck("test-service")),
    ("13 01 00", RegistrationNack("", NackStatus.INVALID_SERVICE_ID)),
    ("13 02 05 6f 74 68 65 72", RegistrationNack("other", NackStatus.NOT_AUTHORISED)),
    ("2f 0c 6563686f2d73657276696365" + ECHO_REQUEST.hex(), ServiceRouted("echo-service", ECHO_REQUEST)),
    (ECHO_REQUEST.hex(), RawPacket(ECHO_REQUEST)),
    ("11 02 70 79", RegisterConnector("py")),
    ("10 00", RegisterAgent("")),
    ("2f 01 61", ServiceRouted("a", b"")),
]


@pytest.mark.parametrize(("wire", "message"), VECTORS, ids=lambda v: type(v).__name__)
def test_vector(wire: str, message: Message) -> None:
    data = bytes.fromhex(wire)
    assert decode(data) == message
    assert message.encode() == data


service_ids = st.text(max_size=63)
messages = st.one_of(
    st.builds(ObservedAddress, st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF)),
    st.builds(RegisterAgent, service_ids),
    st.builds(RegisterConnector, service_ids),
    st.builds(RegistrationAck, service_ids, st.integers(0, 255)),
    st.builds(RegistrationNack, service_ids, st.integers(0, 255)),
    st.builds(ServiceRouted, service_ids, st.binary(min_size=1)),
    st.builds(RawPacket, st.binary(min_size=1).filter(lambda data: data[0] not in set(MessageType))),
)


@given(messages)
def test_round_trip(message: Message) -> None:
    assert decode(message.encode()) == message


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(lambda k, d: bytes((k,)) + d, st.sampled_from(list(MessageType)), st.binary(max_size=300)),
    )
)
def test_decoding_raises_nothing_but_wire_error(data: bytes) -> None:
    try:
        message = decode(data)
    except WireError:
        return
    assert data.startswith(message.encode())


@pytest.mark.parametrize(
    "wire",
    [
        "",
        "01",
        "01 cb 00 71 05 d4",
        "10",
        "10 01",
        "11 05 61 62",
        "12",
        "12 00",
        "12 00 01",
        "13 02 02 61",
        "2f",
        "2f 00",
        "2f 05 61",
    ],
)
def test_truncated_is_refused(wire: str) -> None:
    with pytest.raises(WireError):
        decode(bytes.fromhex(wire))


@pytest.mark.parametrize("wire", ["10 01 ff", "11 02 c3 28", "12 00 01 80", "13 02 01 fe", "2f 01 ff 45"])
def test_service_id_that_is_not_utf8_is_told_apart(wire: str) -> None:
    with pytest.raises(ServiceIdError):
        decode(bytes.fromhex(wire))


def test_trailing_bytes_of_control_messages_are_tolerated() -> None:
    assert decode(bytes.fromhex("01 cb007105 d431 00ff")) == ObservedAddress("203.0.113.5", 54321)
    assert decode(bytes.fromhex("10 01 61 62 63")) == RegisterAgent("a")


def test_split_without_decoding_the_id() -> None:
    assert split_service_routed(b"\x2f\x02\xff\xfepacket") == (b"\xff\xfe", b"packet")
    with pytest.raises(WireError):
        split_service_routed(b"\x2f\x03ab")


def test_prefix_and_packet_make_the_message() -> None:
    assert service_routed_prefix("echo-service") + ECHO_REQUEST == ServiceRouted("echo-service", ECHO_REQUEST).encode()


@pytest.mark.parametrize(
    "message",
    [
        ObservedAddress("::1", 1),
        ObservedAddress("203.0.113.5", 65536),
        ObservedAddress("203.0.113.5", -1),
        RegisterAgent("x" * 256),
        RegisterConnector("\udc80"),
        RegistrationAck("a", 256),
        RegistrationNack("a", -1),
        ServiceRouted("", b""),
        RawPacket(b""),
        RawPacket(b"\x10\x00"),
    ],
)
def test_what_the_protocol_cannot_say_is_our_own_error(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        message.encode()


def test_messages_are_frozen_and_slotted() -> None:
    message = RegisterAgent("a")
    with pytest.raises(FrozenInstanceError):
        message.service_id = "b"  # type: ignore[misc]
    assert not hasattr(message, "__dict__")
