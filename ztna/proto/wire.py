"""Messages of `ztna-v1` carried in QUIC DATAGRAM frames; the only module that knows their offsets.

======================  =======================================================================================
message                 offset: field (integers are big-endian)
======================  =======================================================================================
observed address 0x01   0: type, 1: IPv4 address (4), 5: UDP port (2)
register agent 0x10     0: type, 1: n, 2: service id, UTF-8 (n)
register connector 0x11 as register agent
registration ACK 0x12   0: type, 1: status, 2: n, 3: service id (n)
registration NACK 0x13  as ACK; status 1: the id was not UTF-8 (then n = 0), 2: not authorised
service-routed 0x2f     0: type, 1: n, 2: service id (n), 2 + n: IPv4 packet (to the end); at least 3 bytes in all
anything else           a raw IPv4 packet
======================  =======================================================================================

Trailing bytes after a control message are tolerated by `decode`; a receiver that wants the exact form compares with
`message.encode()`.
"""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import AddressValueError, IPv4Address
from typing import Final

from ztna.proto.errors import LocalProtocolError, ServiceIdError, WireError

__all__ = [
    "MAX_SERVICE_ID_BYTES",
    "Message",
    "MessageType",
    "NackStatus",
    "ObservedAddress",
    "RawPacket",
    "RegisterAgent",
    "RegisterConnector",
    "RegistrationAck",
    "RegistrationNack",
    "ServiceRouted",
    "decode",
    "service_id_bytes",
    "service_routed_prefix",
    "split_service_routed",
]

MAX_SERVICE_ID_BYTES: Final = 255
OBSERVED_ADDRESS_BYTES: Final = 7


class MessageType(IntEnum):
    """First byte of a DATAGRAM payload."""

    OBSERVED_ADDRESS = 0x01
    REGISTER_AGENT = 0x10
    REGISTER_CONNECTOR = 0x11
    REGISTRATION_ACK = 0x12
    REGISTRATION_NACK = 0x13
    SERVICE_ROUTED = 0x2F


class NackStatus(IntEnum):
    """Why a registration was refused."""

    INVALID_SERVICE_ID = 0x01
    NOT_AUTHORISED = 0x02


_CONTROL_BYTES: Final = frozenset(int(member) for member in MessageType)


def service_id_bytes(service_id: str) -> bytes:
    """Return the id as it goes on the wire: at most 255 bytes of UTF-8, else LocalProtocolError."""
    try:
        encoded = service_id.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"service id {service_id!r} cannot be written as UTF-8") from error
    if len(encoded) > MAX_SERVICE_ID_BYTES:
        raise LocalProtocolError(f"service id of {len(encoded)} bytes; at most {MAX_SERVICE_ID_BYTES} fit")
    return encoded


def _counted(service_id: str) -> bytes:
    encoded = service_id_bytes(service_id)
    return bytes((len(encoded),)) + encoded


def _byte(value: int, field: str) -> int:
    if not 0 <= value <= 255:
        raise LocalProtocolError(f"{field} {value} is not one byte")
    return value


@dataclass(frozen=True, slots=True)
class ObservedAddress:
    """The address from which the sender sees us (QAD): dotted IPv4 and UDP port."""

    ip: str
    port: int

    def encode(self) -> bytes:
        """Return the 7 bytes of the message."""
        try:
            address = IPv4Address(self.ip).packed
        except AddressValueError as error:
            raise LocalProtocolError(f"observed address {self.ip!r} is not IPv4") from error
        if not 0 <= self.port <= 0xFFFF:
            raise LocalProtocolError(f"observed port {self.port} is not 16 bits")
        return bytes((MessageType.OBSERVED_ADDRESS,)) + address + self.port.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class RegisterAgent:
    """The sender wants to reach a service."""

    service_id: str

    def encode(self) -> bytes:
        """Return type, length and id."""
        return bytes((MessageType.REGISTER_AGENT,)) + _counted(self.service_id)


@dataclass(frozen=True, slots=True)
class RegisterConnector:
    """The sender offers to serve a service."""

    service_id: str

    def encode(self) -> bytes:
        """Return type, length and id."""
        return bytes((MessageType.REGISTER_CONNECTOR,)) + _counted(self.service_id)


@dataclass(frozen=True, slots=True)
class RegistrationAck:
    """A registration was accepted; receivers ignore the status."""

    service_id: str
    status: int = 0

    def encode(self) -> bytes:
        """Return type, status, length and id."""
        return bytes((MessageType.REGISTRATION_ACK, _byte(self.status, "status"))) + _counted(self.service_id)


@dataclass(frozen=True, slots=True)
class RegistrationNack:
    """A registration was refused, or withdrawn later; `status` is a NackStatus."""

    service_id: str
    status: int

    def encode(self) -> bytes:
        """Return type, status, length and id."""
        return bytes((MessageType.REGISTRATION_NACK, _byte(self.status, "status"))) + _counted(self.service_id)


@dataclass(frozen=True, slots=True)
class ServiceRouted:
    """An IP packet for the connector of a named service."""

    service_id: str
    packet: bytes

    def encode(self) -> bytes:
        """Return the prefix followed by the packet; an empty id with an empty packet has no encoding."""
        encoded = service_routed_prefix(self.service_id) + self.packet
        if len(encoded) < 3:
            raise LocalProtocolError("a service-routed message has at least 3 bytes")
        return encoded


@dataclass(frozen=True, slots=True)
class RawPacket:
    """A payload that is relayed as it is."""

    packet: bytes

    def encode(self) -> bytes:
        """Return the packet; it may not be empty or look like a control message."""
        if not self.packet or self.packet[0] in _CONTROL_BYTES:
            raise LocalProtocolError("a raw packet is not empty and does not begin with a control byte")
        return self.packet


Message = (
    ObservedAddress | RegisterAgent | RegisterConnector | RegistrationAck | RegistrationNack | ServiceRouted | RawPacket
)


def service_routed_prefix(service_id: str) -> bytes:
    """Return what stands before the packet in a service-routed message."""
    return bytes((MessageType.SERVICE_ROUTED,)) + _counted(service_id)


def split_service_routed(data: bytes) -> tuple[bytes, bytes]:
    """Return (service id, packet) of a service-routed message without decoding the id; WireError if truncated."""
    if len(data) < 3 or len(data) < data[1] + 2:
        raise WireError(f"service-routed message of {len(data)} bytes is truncated")
    end = 2 + data[1]
    return data[2:end], data[end:]


def _service_id(data: bytes, offset: int) -> str:
    """Decode the counted service id at `offset`."""
    if len(data) <= offset or len(data) <= offset + data[offset]:
        raise WireError(f"message of {len(data)} bytes ends inside its service id")
    return _text(data[offset + 1 : offset + 1 + data[offset]])


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode()
    except UnicodeDecodeError as error:
        raise ServiceIdError("service id is not UTF-8") from error


def decode(data: bytes) -> Message:
    """Decode one DATAGRAM payload.

    Raises:
        ServiceIdError: complete, but the service id is not UTF-8.
        WireError: empty or truncated.
    """
    if not data:
        raise WireError("empty DATAGRAM")
    kind = data[0]
    if kind not in _CONTROL_BYTES:
        return RawPacket(data)
    if kind == MessageType.SERVICE_ROUTED:
        service, packet = split_service_routed(data)
        return ServiceRouted(_text(service), packet)
    if kind == MessageType.OBSERVED_ADDRESS:
        if len(data) < OBSERVED_ADDRESS_BYTES:
            raise WireError(f"observed address of {len(data)} bytes is truncated")
        return ObservedAddress(str(IPv4Address(data[1:5])), int.from_bytes(data[5:7], "big"))
    if kind == MessageType.REGISTER_AGENT:
        return RegisterAgent(_service_id(data, 1))
    if kind == MessageType.REGISTER_CONNECTOR:
        return RegisterConnector(_service_id(data, 1))
    service_id = _service_id(data, 2)
    if kind == MessageType.REGISTRATION_ACK:
        return RegistrationAck(service_id, data[1])
    return RegistrationNack(service_id, data[1])
