"""Which grants of addresses have to be written so that a Service holds what it should. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import msgspec

from felixpy.addresses import Address, format_address
from felixpy.datastore.model import Write
from felixpy.resources.kinds import GRANTS_PREFIX, Name, grant_key
from felixpy.resources.service_types import Grant

GRANTED_ADDRESSES = f"{GRANTS_PREFIX}addresses/"


def is_grant(key: bytes) -> bool:
    """Whether a key is the grant of an address."""
    return key.startswith(GRANTED_ADDRESSES.encode())


def derive_grant_writes(
    name: Name, held: Collection[Address], wanted: Mapping[Address, str], grants: Mapping[Address, Grant]
) -> Iterator[Write]:
    """The writes after which `name`, which holds `held`, holds `wanted` (with their pools), and others what they do."""
    for address in sorted(set(held) - wanted.keys()):
        others = tuple(one for one in grants[address].services if one != name)
        yield _render(address, others, grants[address].pool)
    for address, pool in wanted.items():
        grant = grants.get(address)
        if grant is None:
            yield _render(address, (name,), pool)
        elif name not in grant.services or grant.pool != pool:
            yield _render(address, tuple(sorted({*grant.services, name})), pool)


def _render(address: Address, services: tuple[Name, ...], pool: str) -> Write:
    text = format_address(address)
    body = {"address": text, "services": [str(name) for name in services], "pool": pool}
    return Write(grant_key(text).encode(), msgspec.json.encode(body) if services else None)
