"""Our settings as aioquic's configuration objects."""

import ssl
from typing import Final

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicProtocolVersion

from ztna.io.quic_parts import CID_BYTES, CONGESTION_CONTROL, MIN_UDP_PAYLOAD
from ztna.io.quic_types import ClientSettings, ServerSettings

SUPPORTED_VERSIONS: Final = (QuicProtocolVersion.VERSION_1,)
MAX_DATAGRAM_FRAME_BYTES: Final = 65536


def client_configuration(settings: ClientSettings) -> QuicConfiguration:
    """Configuration of a connection we open. Without `cadata` aioquic would trust certifi's list."""
    credentials = settings.credentials
    return QuicConfiguration(
        alpn_protocols=list(settings.alpn),
        cadata=settings.ca_pem.strip() + b"\n",
        certificate=credentials.certificate if credentials is not None else None,
        certificate_chain=list(credentials.chain) if credentials is not None else [],
        congestion_control_algorithm=CONGESTION_CONTROL,
        connection_id_length=CID_BYTES,
        idle_timeout=settings.idle_timeout_s,
        is_client=True,
        max_data=settings.limits.connection_window_bytes,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME_BYTES,
        max_datagram_size=MIN_UDP_PAYLOAD,
        max_stream_data=settings.limits.stream_window_bytes,
        private_key=credentials.private_key if credentials is not None else None,
        server_name=settings.server_name,
        supported_versions=list(SUPPORTED_VERSIONS),
        verify_mode=ssl.CERT_REQUIRED if settings.verify_peer else ssl.CERT_NONE,
    )


def server_configuration(settings: ServerSettings) -> QuicConfiguration:
    """Configuration shared by all connections accepted under these settings."""
    return QuicConfiguration(
        alpn_protocols=list(settings.alpn),
        certificate=settings.credentials.certificate,
        certificate_chain=list(settings.credentials.chain),
        congestion_control_algorithm=CONGESTION_CONTROL,
        connection_id_length=CID_BYTES,
        idle_timeout=settings.idle_timeout_s,
        is_client=False,
        max_data=settings.limits.connection_window_bytes,
        max_datagram_frame_size=MAX_DATAGRAM_FRAME_BYTES,
        max_datagram_size=MIN_UDP_PAYLOAD,
        max_stream_data=settings.limits.stream_window_bytes,
        private_key=settings.credentials.private_key,
        supported_versions=list(SUPPORTED_VERSIONS),
    )
