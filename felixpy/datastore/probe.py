"""Why an endpoint cannot be used: its own walk through name, TCP, TLS and HTTP/2, after a call has failed.

gRPC says "failed to connect to all addresses" for nearly everything; this names the step that fails. In: an endpoint
and the certificates; out: a `Finding`, or None when the endpoint takes connections now. Never sends anything but the
opening of an HTTP/2 connection (RFC 9113 §3.4).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple

from felixpy.datastore.model import ConnectReason
from felixpy.datastore.settings import Endpoint, EtcdSettings

PROBE_STEP_S = 2.0
_OPENING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS_FRAME = 4
# X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH, openssl/x509_vfy.h
_WRONG_NAME = (62, 64)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE", "PACKET_LENGTH")


class Finding(NamedTuple):
    """Why, with the endpoint and the operating system's or the TLS library's own words."""

    reason: ConnectReason
    detail: str


async def diagnose(endpoints: Sequence[Endpoint], settings: EtcdSettings) -> Finding | None:
    """Why none of `endpoints` can be used: the first one's reason and everyone's detail; None when one can be."""
    findings = await asyncio.gather(*(probe(endpoint, settings) for endpoint in endpoints))
    bad = [finding for finding in findings if finding is not None]
    if len(bad) < len(findings):
        return None
    return Finding(bad[0].reason, "; ".join(finding.detail for finding in bad))


async def probe(endpoint: Endpoint, settings: EtcdSettings) -> Finding | None:
    """What is wrong with one endpoint. Each of its steps is bounded by PROBE_STEP_S."""
    try:
        if endpoint.path:
            return await _probe_http(endpoint, settings, "")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PROBE_STEP_S):
                found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=1)
        except TimeoutError:
            return Finding(ConnectReason.DNS, f"{endpoint}: no answer of a name server within {PROBE_STEP_S:g} s")
        except OSError as error:
            return Finding(ConnectReason.DNS, f"{endpoint}: {error.strerror or repr(error)}")
        findings = [await _probe_http(endpoint, settings, str(info[4][0])) for info in found[:4]]
        return None if None in findings else findings[-1]
    except TimeoutError:
        return Finding(ConnectReason.UNREACHABLE, f"{endpoint}: no answer within {PROBE_STEP_S:g} s")


async def _probe_http(endpoint: Endpoint, settings: EtcdSettings, address: str) -> Finding | None:
    try:
        context = make_context(settings) if endpoint.tls else None
    except OSError as error:
        return Finding(ConnectReason.TLS_CLIENT, f"{endpoint}: our certificates cannot be read: {error}")
    try:
        reader, writer = await _connect(endpoint, address, context)
    except ssl.SSLCertVerificationError as error:
        name = error.verify_code in _WRONG_NAME
        return Finding(ConnectReason.TLS_NAME if name else ConnectReason.TLS_CA, f"{endpoint}: {error.verify_message}")
    except ssl.SSLError as error:
        return _judge_tls(endpoint, error)
    except ConnectionResetError as error:
        reason = ConnectReason.TLS_NEEDED if endpoint.tls else ConnectReason.UNREACHABLE
        return Finding(reason, f"{endpoint}: {error}")
    except (ConnectionRefusedError, FileNotFoundError) as error:
        return Finding(ConnectReason.REFUSED, f"{endpoint}: {error.strerror}")
    except TimeoutError:
        raise
    except OSError as error:
        return Finding(ConnectReason.UNREACHABLE, f"{endpoint}: {error.strerror or error}")
    try:
        finding = await _open_http2(endpoint, reader, writer)
    finally:
        writer.transport.abort()
    if finding is None or endpoint.tls or finding.reason is not ConnectReason.TLS_NEEDED:
        return finding
    return finding if await _speaks_tls(endpoint, address) else Finding(ConnectReason.UNREACHABLE, finding.detail)


async def _speaks_tls(endpoint: Endpoint, address: str) -> bool:
    """Whether TLS is what it wants, whoever signed its certificate: one that is stopping ends a connection as well."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await _connect(endpoint, address, context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
    writer.transport.abort()
    return True


async def _connect(
    endpoint: Endpoint, address: str, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(PROBE_STEP_S):
        name = endpoint.host if context else None
        if endpoint.path:
            return await asyncio.open_unix_connection(endpoint.path, ssl=context, server_hostname=name)
        return await asyncio.open_connection(address, endpoint.port, ssl=context, server_hostname=name)


async def _open_http2(endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Finding | None:
    """TLS 1.3 reports a refused client certificate only now, in answer to the first data."""
    try:
        async with asyncio.timeout(PROBE_STEP_S):
            writer.write(_OPENING)
            await writer.drain()
            answer = await reader.read(64)
    except ssl.SSLError as error:
        return _judge_tls(endpoint, error)
    except ConnectionError as error:
        reason = ConnectReason.TLS_CLIENT if endpoint.tls else ConnectReason.TLS_NEEDED
        return Finding(reason, f"{endpoint}: {error}")
    if len(answer) > 3 and answer[3] == _SETTINGS_FRAME:
        return None
    if endpoint.tls:
        return Finding(ConnectReason.TLS_CLIENT, f"{endpoint}: the server closed the connection after the handshake")
    return Finding(ConnectReason.TLS_NEEDED, f"{endpoint}: the answer to plain HTTP/2 is not HTTP/2")


def _judge_tls(endpoint: Endpoint, error: ssl.SSLError) -> Finding:
    reason = error.reason or str(error)
    if any(word in reason for word in _NOT_TLS):
        return Finding(ConnectReason.TLS_NEEDED, f"{endpoint}: {reason}")
    if "ALERT" in reason:
        return Finding(ConnectReason.TLS_CLIENT, f"{endpoint}: {reason}")
    return Finding(ConnectReason.TLS_NEEDED, f"{endpoint}: {reason}")


def make_context(settings: EtcdSettings) -> ssl.SSLContext:
    """Python's TLS with the same files as gRPC's.

    Raises  OSError (ssl.SSLError is one) when a file is missing or is no certificate.
    """
    context = ssl.create_default_context(cafile=str(settings.ca) if settings.ca else None)
    context.set_alpn_protocols(["h2"])
    if settings.cert and settings.key:
        context.load_cert_chain(str(settings.cert), str(settings.key))
    return context
