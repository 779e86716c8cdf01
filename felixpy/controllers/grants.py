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


def derive_grants(
    name: Name, held: Collection[Address], wanted: Mapping[Address, str], grants: Mapping[Address, Grant]
) -> Iterator[tuple[Address, Grant | None]]:
    """The grants by which `name`, which holds `held`, holds `wanted` (with their pools), and others what they do."""
    for address in sorted(set(held) - wanted.keys()):
        others = tuple(one for one in grants[address].services if one != name)
        yield address, Grant(address, others, grants[address].pool) if others else None
    for address, pool in wanted.items():
        grant = grants.get(address)
        if grant is None:
            yield address, Grant(address, (name,), pool)
        elif name not in grant.services or grant.pool != pool:
            yield address, Grant(address, tuple(sorted({*grant.services, name})), pool)


def render_grant(address: Address, grant: Grant | None) -> Write:
    """What is written of an address, that it is held or that it no longer is."""
    text = format_address(address)
    key = grant_key(text).encode()
    if grant is None:
        return Write(key, None)
    body = {"address": text, "services": [str(name) for name in grant.services], "pool": grant.pool}
    return Write(key, msgspec.json.encode(body))
