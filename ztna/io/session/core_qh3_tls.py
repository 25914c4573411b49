"""The TLS half of a qh3 connection with our transport parameters and our certificate."""

import ssl
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from qh3 import tls
from qh3._hazmat import Buffer, Certificate
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.packet import (
    QuicProtocolVersion,
    QuicTransportParameters,
    QuicVersionInformation,
    push_quic_transport_parameters,
)
from qh3.quic.tls_bridge import QuicTlsBridge

from ztna.io.quic_config import MAX_DATAGRAM_FRAME_BYTES
from ztna.io.quic_types import Credentials
from ztna.io.session.core import SessionTls

VERSION: Final = int(QuicProtocolVersion.VERSION_1)
MAX_ACK_DELAY_MS: Final = 25
ACK_DELAY_EXPONENT: Final = 3
ACTIVE_CONNECTION_IDS: Final = 2
RECORDS_UNI: Final = 1
PARAMETERS_BYTES: Final = 1024


class SessionTlsBridge(QuicTlsBridge):
    """qh3's TLS engine saying our limits instead of its own, and offering one small key share."""

    def __init__(self, settings: SessionTls, **arguments: Any) -> None:
        self._session = settings
        super().__init__(_configuration(settings, is_client=arguments.pop("is_client")), version=VERSION, **arguments)
        # A ClientHello with a post-quantum share needs two packets, which a lossy path carries half as often.
        self.tls._supported_groups = [tls.Group.X25519, tls.Group.SECP256R1]

    def serialize_transport_parameters(self) -> bytes:
        """Our transport parameters (RFC 9000 s18.2)."""
        limits, server = self._session.limits, not self.configuration.is_client
        parameters = QuicTransportParameters(
            ack_delay_exponent=ACK_DELAY_EXPONENT,
            active_connection_id_limit=ACTIVE_CONNECTION_IDS,
            max_idle_timeout=int(self._session.idle_timeout_s * 1000),
            initial_max_data=limits.connection_window_bytes,
            initial_max_stream_data_bidi_local=limits.stream_window_bytes,
            initial_max_stream_data_bidi_remote=limits.stream_window_bytes,
            initial_max_stream_data_uni=limits.stream_window_bytes,
            initial_max_streams_bidi=limits.max_streams_bidi,
            initial_max_streams_uni=RECORDS_UNI,
            initial_source_connection_id=self.local_initial_source_connection_id,
            max_ack_delay=MAX_ACK_DELAY_MS,
            max_datagram_frame_size=MAX_DATAGRAM_FRAME_BYTES,
            max_udp_payload_size=limits.max_udp_payload_bytes,
            original_destination_connection_id=self.original_destination_connection_id if server else None,
            stateless_reset_token=self.stateless_reset_token if server else None,
            version_information=QuicVersionInformation(chosen_version=VERSION, available_versions=[VERSION]),
        )
        buffer = Buffer(capacity=PARAMETERS_BYTES)
        push_quic_transport_parameters(buffer, parameters)
        return bytes(buffer.data)


def _configuration(settings: SessionTls, *, is_client: bool) -> QuicConfiguration:
    configuration = QuicConfiguration(
        alpn_protocols=[settings.alpn],
        is_client=is_client,
        server_name=settings.server_name,
        # The server's signature is checked in any case; its chain is judged by ztna.io.certs for both cores.
        verify_mode=ssl.CERT_NONE,
        supported_versions=[VERSION],
    )
    if settings.credentials is not None:
        _load(configuration, settings.credentials)
    if is_client:
        algorithms = tls.Context(is_client=True)._signature_algorithms
        configuration.signature_algorithms = [*algorithms, int(tls.SignatureAlgorithm.ED25519)]
    return configuration


def _load(configuration: QuicConfiguration, credentials: Credentials) -> None:
    configuration.certificate = Certificate(credentials.certificate.public_bytes(Encoding.DER))
    configuration.certificate_chain = [Certificate(each.public_bytes(Encoding.DER)) for each in credentials.chain]
    pem = credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    configuration.private_key = tls.load_pem_private_key(pem)
