"""Reaching etcd: endpoints, TLS, and the reason that is given when it cannot be reached."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from felixpy.datastore.model import ConnectReason, Unavailable
from felixpy.datastore.settings import Endpoint, parse_endpoints
from tests.datastore.certificates import Authority, Pair
from tests.datastore.world import opened, proxied
from tests.support.etcd import Etcd, free_port
from tests.support.process import Daemon


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://10.0.0.1:2379", (Endpoint(False, "10.0.0.1", 2379),)),
        ("10.0.0.1:2380, https://etcd-2", (Endpoint(False, "10.0.0.1", 2380), Endpoint(True, "etcd-2", 2379))),
        ("https://[fd00::1]:2379/", (Endpoint(True, "fd00::1", 2379),)),
        ("unix:///run/etcd.sock", (Endpoint(False, "", 0, "/run/etcd.sock"),)),
    ],
)
def test_endpoints(text: str, endpoints: tuple[Endpoint, ...]) -> None:
    assert parse_endpoints(text) == endpoints
    assert parse_endpoints(",".join(map(str, endpoints))) == endpoints


@pytest.mark.parametrize("text", ["", "ftp://a:1", "http://a:b", "http://", "http://a:99999", "unix:", "http://a/v3"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoints(text)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    return Authority(tmp_path_factory.mktemp("ca"), "stranger")


def tls_etcd(directory: Path, authority: Authority, pair: Pair) -> tuple[str, Daemon]:
    """An etcd with TLS that wants client certificates."""
    port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
    url = f"https://127.0.0.1:{port}"
    argv = ["etcd", f"--data-dir={directory}/data", f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]
    argv += [f"--cert-file={pair.cert}", f"--key-file={pair.key}", f"--trusted-ca-file={authority.cert}"]
    daemon = Daemon([*argv, "--client-cert-auth", "--log-level=warn", "--logger=zap"], directory / "log")
    return url, daemon.start().wait_ready(lambda: socket.create_connection(("127.0.0.1", port), 1).close() or True)


@pytest.fixture(scope="module")
def secure_url(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    url, daemon = tls_etcd(tmp_path_factory.mktemp("etcd"), authority, authority.sign("server"))
    with daemon:
        yield url


@pytest.fixture(scope="module")
def misnamed_url(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """An etcd whose certificate is for another address."""
    url, daemon = tls_etcd(tmp_path_factory.mktemp("etcd"), authority, authority.sign("misnamed", "192.0.2.1"))
    with daemon:
        yield url


async def reason_for(urls: str, **settings: object) -> ConnectReason:
    """Why a read fails."""
    async with opened(urls, **settings) as store:
        with pytest.raises(Unavailable) as failed:
            await store.get(b"/")
        assert urls.split(",")[0] in str(failed.value)
        return failed.value.reason


async def test_tls_with_a_client_certificate(secure_url: str, authority: Authority) -> None:
    client = authority.sign("client")
    async with opened(secure_url, ca=authority.cert, cert=client.cert, key=client.key) as store:
        assert await store.get_many([b"/a", b"/b"]) == (None, None)


async def test_each_member_is_checked_by_its_own_name(secure_url: str, misnamed_url: str, authority: Authority) -> None:
    client = authority.sign("client")
    urls = f"{misnamed_url},{secure_url}"
    async with opened(urls, ca=authority.cert, cert=client.cert, key=client.key) as store:
        assert await store.get(b"/") is None


async def test_renewed_certificate_files_are_read(secure_url: str, authority: Authority, stranger: Authority) -> None:
    client, wrong = authority.sign("renewed"), stranger.sign("renewed")
    right = (client.cert.read_bytes(), client.key.read_bytes())
    client.cert.write_bytes(wrong.cert.read_bytes())
    client.key.write_bytes(wrong.key.read_bytes())
    async with opened(secure_url, ca=authority.cert, cert=client.cert, key=client.key) as store:
        with pytest.raises(Unavailable):
            await store.get(b"/")
        client.cert.write_bytes(right[0])
        client.key.write_bytes(right[1])
        assert await store.get(b"/") is None


async def test_a_name_that_does_not_resolve() -> None:
    assert await reason_for("http://no-such-host.invalid:2379") is ConnectReason.DNS


async def test_nothing_listens() -> None:
    assert await reason_for(f"http://127.0.0.1:{free_port()}") is ConnectReason.REFUSED
    assert await reason_for("unix:/nowhere/etcd.sock") is ConnectReason.REFUSED


async def test_nothing_answers(etcd: Etcd) -> None:
    async with proxied(etcd.port) as proxy:
        proxy.swallow()
        assert await reason_for(f"http://127.0.0.1:{proxy.port}", deadline_s=1.0) is ConnectReason.UNREACHABLE


async def test_the_certificate_is_for_another_name(misnamed_url: str, authority: Authority) -> None:
    client = authority.sign("client")
    reason = await reason_for(misnamed_url, ca=authority.cert, cert=client.cert, key=client.key)
    assert reason is ConnectReason.TLS_NAME


async def test_the_certificate_is_from_another_authority(secure_url: str, stranger: Authority) -> None:
    assert await reason_for(secure_url, ca=stranger.cert) is ConnectReason.TLS_CA


async def test_no_client_certificate_or_a_strangers(secure_url: str, authority: Authority, stranger: Authority) -> None:
    client = stranger.sign("client")
    assert await reason_for(secure_url, ca=authority.cert) is ConnectReason.TLS_CLIENT
    reason = await reason_for(secure_url, ca=authority.cert, cert=client.cert, key=client.key)
    assert reason is ConnectReason.TLS_CLIENT


async def test_our_files_are_missing(secure_url: str, tmp_path: Path) -> None:
    assert await reason_for(secure_url, ca=tmp_path / "none.pem") is ConnectReason.TLS_CLIENT


async def test_tls_on_one_side_only(secure_url: str, etcd: Etcd, authority: Authority) -> None:
    assert await reason_for(secure_url.replace("https", "http")) is ConnectReason.TLS_NEEDED
    assert await reason_for(etcd.url.replace("http", "https"), ca=authority.cert) is ConnectReason.TLS_NEEDED


async def test_a_server_that_ends_connections_is_not_taken_for_one_of_tls() -> None:
    def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: socket.socket = writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # with a reset
        writer.transport.abort()

    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await reason_for(f"http://127.0.0.1:{port}", deadline_s=1.0) is ConnectReason.UNREACHABLE


async def test_a_closed_store_ends_its_watches(etcd: Etcd) -> None:
    async with opened(etcd.url) as store:
        batches = store.watch([b"/t/"], await store.put(b"/t/a", b""))
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(Unavailable):
            await waiting
