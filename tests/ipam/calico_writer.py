"""Calico's way of assigning and releasing, one key at a time, as a second writer, on plain JSON.

Each verb is a generator that yields before every access to the datastore, so that a test may run others in between, or
stop there for good, as a crash does. Shares no code with the package under test.
Source: libcalico-go/lib/ipam/{ipam.go,ipam_block_reader_writer.go,ipam_handle.go}; design/ipam/ipam-datastore.md.
"""

import ipaddress
import json
from base64 import b64decode, b64encode
from datetime import timedelta
from zlib import crc32

IPAM = "/calico/ipam/v2"
BLOCKS = f"{IPAM}/assignment/ipv4/block/"
IDLE_AFTER = timedelta(minutes=1)
RETRIES = 20


class Lost(Exception):
    """A compare-and-swap found another revision."""


class TwinKeys:
    """Single keys of the datastore in memory."""

    def __init__(self, store):
        self.store = store

    def get(self, key):
        found = self.store.get(key)
        return (None, 0) if found is None else (json.loads(found.value), found.mod_revision)

    def swap(self, key, tree, revision):
        result = self.store.apply({key: revision}, {key: None if tree is None else as_json(tree).encode()})
        if not result.succeeded:
            raise Lost
        return result.revision

    def names(self, prefix):
        return sorted(key for key in self.store.values if key.startswith(prefix))


class GatewayKeys:
    """Single keys of a real etcd, through its JSON gateway."""

    def __init__(self, etcd):
        self.etcd = etcd

    def get(self, key):
        found = self.etcd.call("kv/range", {"key": as_base64(key)}).get("kvs", [])
        return (json.loads(b64decode(found[0]["value"])), int(found[0]["mod_revision"])) if found else (None, 0)

    def swap(self, key, tree, revision):
        name = as_base64(key)
        put = {"request_put": {"key": name, "value": as_base64(as_json(tree))}}
        delete = {"request_delete_range": {"key": name}}
        condition = {"key": name, "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
        body = {"compare": [condition], "success": [delete if tree is None else put]}
        answer = self.etcd.call("kv/txn", body)
        if not answer.get("succeeded"):
            raise Lost
        return int(answer["header"]["revision"])

    def names(self, prefix):
        return sorted(self.etcd.get_prefix(prefix))


def as_json(tree):
    return json.dumps(tree, separators=(",", ":"))


def as_base64(text):
    return b64encode(text.encode()).decode()


def block_key(cidr):
    return BLOCKS + cidr.replace("/", "-")


def affinity_key(host, cidr):
    return f"{IPAM}/host/{host}/ipv4/block/{cidr.replace('/', '-')}"


def handle_key(handle):
    return f"{IPAM}/handle/{handle}"


def is_empty(block):
    return all(index is None for index in block["allocations"])


class CalicoWriter:
    """One Calico node."""

    def __init__(self, keys, host, pool, block_length, clock, strict=False):
        self.keys = keys
        self.strict = strict
        self.host = host
        self.affinity = f"host:{host}"
        self.clock = clock
        cidrs = [str(cidr) for cidr in ipaddress.ip_network(pool).subnets(new_prefix=block_length)]
        start = crc32(host.encode()) % len(cidrs)
        self.cidrs = cidrs[start:] + cidrs[:start]

    def retry(self, verb, *arguments):
        for _ in range(RETRIES):
            try:
                return (yield from verb(*arguments))
            except Lost:
                continue
        return None

    def assign(self, handle):
        """One address, or None: of an own block, of a new one, of one that lay idle, of another's."""
        yield
        prefix = affinity_key(self.host, "")
        for name in self.keys.names(prefix):
            address = yield from self.retry(self.assign_affine, name.removeprefix(prefix).replace("-", "/"), handle)
            if address is not None:
                return address
        yield
        taken = {name.removeprefix(BLOCKS).replace("-", "/") for name in self.keys.names(BLOCKS)}
        for cidr in (each for each in self.cidrs if each not in taken):
            address = yield from self.retry(self.assign_affine, cidr, handle)
            if address is not None:
                return address
        for cidr in self.cidrs:
            address = yield from self.retry(self.assign_reclaimed, cidr, handle)
            if address is not None:
                return address
        for cidr in () if self.strict else self.cidrs:
            address = yield from self.retry(self.assign_from, cidr, handle)
            if address is not None:
                return address
        return None

    def assign_affine(self, cidr, handle):
        """From a block that is ours, or can be made ours by creating it."""
        affinity, revision = yield from self.get_pending_affinity(cidr)
        if (yield from self.make_good(cidr, affinity, revision)):
            return (yield from self.assign_from(cidr, handle))
        return None

    def assign_reclaimed(self, cidr, handle):
        yield
        block, _ = self.keys.get(block_key(cidr))
        host = (block["affinity"] or "").removeprefix("host:") if block else ""
        if not host or host == self.host or not is_empty(block):
            return None
        claimed = self.clock() - IDLE_AFTER
        if block.get("affinity_claim_time", "") > claimed.strftime("%Y-%m-%dT%H:%M:%SZ"):
            return None
        yield from self.give_up(cidr, host, block["sequenceNumber"])
        return (yield from self.assign_affine(cidr, handle))

    def assign_address(self, address, handle, block_length):
        """A particular address, or None."""
        cidr = str(ipaddress.ip_network(f"{address}/{block_length}", strict=False))
        yield
        block, _ = self.keys.get(block_key(cidr))
        if block is None:
            affinity, revision = yield from self.get_pending_affinity(cidr)
            if not (yield from self.make_good(cidr, affinity, revision)):
                return None
        return (yield from self.assign_from(cidr, handle, address))

    def get_pending_affinity(self, cidr):
        key = affinity_key(self.host, cidr)
        pending = {"state": "pending", "deleted": False}
        yield
        try:
            return pending, self.keys.swap(key, pending, 0)
        except Lost:
            pass
        yield
        affinity, revision = self.keys.get(key)
        if affinity is None:
            raise Lost
        if affinity["state"] != "confirmed":
            affinity = {**affinity, "state": "pending"}
            yield
            revision = self.keys.swap(key, affinity, revision)
        return affinity, revision

    def make_good(self, cidr, affinity, revision):
        """Whether the block is ours, our affinity confirmed and the block there."""
        key = affinity_key(self.host, cidr)
        yield
        block, block_revision = self.keys.get(block_key(cidr))
        if block is None:
            if affinity["state"] != "pending":
                affinity = {**affinity, "state": "pending"}
                yield
                revision = self.keys.swap(key, affinity, revision)
            yield
            try:
                self.keys.swap(block_key(cidr), self.new_block(cidr), 0)
            except Lost:
                yield
                block, _ = self.keys.get(block_key(cidr))
                if block is None:
                    raise
        elif block["affinity"] == self.affinity and affinity["state"] != "confirmed":
            yield
            self.write_block(cidr, block, block_revision)
        if block is not None and block["affinity"] != self.affinity:
            yield
            self.keys.swap(key, None, revision)
            return False
        if affinity["state"] != "confirmed":
            yield
            self.keys.swap(key, {**affinity, "state": "confirmed"}, revision)
        return True

    def new_block(self, cidr):
        size = ipaddress.ip_network(cidr).num_addresses
        return {
            "cidr": cidr,
            "affinity": self.affinity,
            "affinity_claim_time": self.clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "allocations": [None] * size,
            "unallocated": list(range(size)),
            "attributes": None,
            "sequenceNumber": int(self.clock().timestamp()) * 1_000_000_000,
            "sequenceNumberForAllocation": {},
            "deleted": False,
        }

    def write_block(self, cidr, block, revision):
        self.keys.swap(block_key(cidr), {**block, "sequenceNumber": block["sequenceNumber"] + 1}, revision)

    def assign_from(self, cidr, handle, address=None):
        """The handle is counted first, then the block written; where that fails, the handle is counted back."""
        yield
        block, revision = self.keys.get(block_key(cidr))
        if block is None or not block["unallocated"] or (self.strict and block["affinity"] != self.affinity):
            return None
        network = ipaddress.ip_network(cidr)
        ordinal = block["unallocated"][0] if address is None else list(map(str, network)).index(address)
        if ordinal not in block["unallocated"]:
            return None
        block["unallocated"].remove(ordinal)
        attributes = block["attributes"] or []
        block["attributes"] = [*attributes, {"handle_id": handle, "secondary": {"node": self.host}}]
        block["allocations"][ordinal] = len(attributes)
        block["sequenceNumberForAllocation"][str(ordinal)] = block["sequenceNumber"]
        yield from self.retry(self.count, handle, cidr, 1)
        yield
        try:
            self.write_block(cidr, block, revision)
        except Lost:
            yield from self.retry(self.count, handle, cidr, -1)
            raise
        return str(network[ordinal])

    def count(self, handle, cidr, number):
        yield
        tree, revision = self.keys.get(handle_key(handle))
        tree = tree or {"block": {}, "deleted": False}
        total = tree["block"].get(cidr, 0) + number
        if total < 0:
            return
        tree["block"][cidr] = total
        if total == 0:
            del tree["block"][cidr]
        yield
        self.keys.swap(handle_key(handle), tree if tree["block"] else None, revision)

    def release(self, handle):
        """All addresses of a handle."""
        yield
        tree, _ = self.keys.get(handle_key(handle))
        for cidr in list(tree["block"]) if tree else []:
            yield from self.retry(self.release_from, cidr, handle)

    def release_from(self, cidr, handle):
        yield
        block, revision = self.keys.get(block_key(cidr))
        if block is None:
            return
        held = [
            ordinal
            for ordinal, index in enumerate(block["allocations"])
            if index is not None and block["attributes"][index].get("handle_id") == handle
        ]
        yield from self.free(cidr, block, revision, held, handle)

    def release_address(self, address, handle, sequence, block_length):
        """One address, if it is still the allocation that the sequence number is of."""
        network = ipaddress.ip_network(f"{address}/{block_length}", strict=False)
        cidr, ordinal = str(network), list(map(str, network)).index(address)
        yield
        block, revision = self.keys.get(block_key(cidr))
        index = block["allocations"][ordinal] if block else None
        if index is None or block["attributes"][index].get("handle_id") != handle:
            return
        if block["sequenceNumberForAllocation"].get(str(ordinal), 0) == sequence:
            yield from self.free(cidr, block, revision, [ordinal], handle)

    def free(self, cidr, block, revision, ordinals, handle):
        if not ordinals:
            return
        for ordinal in ordinals:
            block["allocations"][ordinal] = None
            block["unallocated"].append(ordinal)
            block["sequenceNumberForAllocation"].pop(str(ordinal), None)
        used = sorted({index for index in block["allocations"] if index is not None})
        block["attributes"] = [block["attributes"][index] for index in used]
        block["allocations"] = [None if index is None else used.index(index) for index in block["allocations"]]
        yield
        if not used and block["affinity"] is None:
            self.keys.swap(block_key(cidr), None, revision)
        else:
            self.write_block(cidr, block, revision)
        yield from self.retry(self.count, handle, cidr, -len(ordinals))

    def give_up(self, cidr, host, sequence=None, only_empty=True):
        """Any host's claim to a block: pending deletion first, then the block goes (or stays without owner)."""
        key = affinity_key(host, cidr)
        yield
        affinity, revision = self.keys.get(key)
        yield
        block, block_revision = self.keys.get(block_key(cidr))
        if affinity is None or block is None or (sequence is not None and block["sequenceNumber"] != sequence):
            return
        if block["affinity"] not in (None, f"host:{host}"):
            yield
            self.keys.swap(key, None, revision)
            return
        if only_empty and not is_empty(block):
            return
        yield
        revision = self.keys.swap(key, {**affinity, "state": "pendingDeletion"}, revision)
        yield
        if is_empty(block):
            self.keys.swap(block_key(cidr), None, block_revision)
        else:
            orphan = {name: value for name, value in block.items() if name != "affinity_claim_time"}
            self.write_block(cidr, {**orphan, "affinity": None}, block_revision)
        yield
        self.keys.swap(key, None, revision)
