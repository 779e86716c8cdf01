"""A small cluster in memory: pools and nodes by name, and a clock that only tests move."""

import json
import random
from datetime import UTC, datetime, timedelta

from ipam.addresses import format_address, parse_address, parse_prefix
from ipam.audit import audit
from ipam.codec import parse_block, parse_handle, render_config
from ipam.engine import Allocator
from ipam.model import CONFIG_KEY, Config, block_key, handle_key, node_owner, pool_key
from ipam.request import Request
from ipam.store import MemoryStore


class Cluster:
    """One datastore and whoever allocates from it."""

    def __init__(self):
        self.store = MemoryStore()
        self.now = datetime(2026, 8, 22, 6, 33, 20, tzinfo=UTC)

    def pool(self, name="default", cidr="10.0.0.0/24", **spec):
        document = {"metadata": {"name": name}, "spec": {"cidr": cidr, **spec}}
        self.write(pool_key(name), json.dumps(document).encode())

    def config(self, **fields):
        self.write(CONFIG_KEY, render_config(Config(**fields)))

    def reserve(self, *cidrs):
        key = "/calico/resources/v3/projectcalico.org/ipreservations/r"
        self.write(key, json.dumps({"spec": {"reservedCIDRs": cidrs}}).encode())

    def write(self, key, value):
        self.store.apply({}, {key: value})

    def read(self, key):
        found = self.store.get(key)
        return found and found.value

    def node(self, name="n1", owner=None, **options):
        return Allocator(
            self.store,
            owner or node_owner(name),
            now=lambda: self.now,
            rng=random.Random(1),
            sleep=no_sleep,
            **options,
        )

    def wait(self, **span):
        self.now += timedelta(**span)

    def block(self, cidr):
        value = self.read(block_key(parse_prefix(cidr)))
        return value and parse_block(value)

    def handle(self, handle_id):
        value = self.read(handle_key(handle_id))
        return value and {str(cidr): count for cidr, count in parse_handle(value).blocks.items()}

    def audit(self, **live):
        return audit({key: found.value for key, found in self.store.values.items()}, **live)

    def keys(self, part):
        return sorted(key for key in self.store.values if part in key)


async def no_sleep(_seconds):
    return None


def pod(handle="a", v4=1, **wishes):
    """A request for one address unless said otherwise."""
    wishes["addresses"] = tuple(parse_address(address) for address in wishes.get("addresses", ()))
    return Request(handle_id=handle, owner={"pod": handle}, v4=v4, **wishes)


def texts(assignment):
    """An assignment's addresses in order."""
    return [format_address(each.address) for each in assignment.addresses]
