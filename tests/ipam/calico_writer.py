"""Calico's way of assigning and releasing, one key at a time, as a second writer, on plain JSON.

Each verb is a generator that yields before every access to the datastore, so that a test may run others in between, or
stop there for good, as a crash does. Shares no code with the package under test.
Source: libcalico-go/lib/ipam/{ipam.go,ipam_block_reader_writer.go}; design/ipam/ipam-datastore.md.
"""

import ipaddress
import json


class Lost(Exception):
    """A compare-and-swap found another revision."""


class CalicoWriter:
    """One Calico node."""

    def __init__(self, store, host, pool, block_length, clock):
        self.store = store
        self.host = host
        self.pool = ipaddress.ip_network(pool)
        self.block_length = block_length
        self.clock = clock

    def get(self, key):
        found = self.store.get(key)
        return (None, 0) if found is None else (json.loads(found.value), found.mod_revision)

    def swap(self, key, tree, revision):
        value = None if tree is None else json.dumps(tree, separators=(",", ":")).encode()
        if not self.store.apply({key: revision}, {key: value}).succeeded:
            raise Lost

    def block_key(self, cidr):
        return f"/calico/ipam/v2/assignment/ipv4/block/{cidr.replace('/', '-')}"

    def affinity_key(self, cidr, host=None):
        return f"/calico/ipam/v2/host/{host or self.host}/ipv4/block/{cidr.replace('/', '-')}"

    def handle_key(self, handle):
        return f"/calico/ipam/v2/handle/{handle}"

    def retry(self, verb, *arguments):
        for _ in range(20):
            try:
                return (yield from verb(*arguments))
            except Lost:
                continue
        return None

    def assign(self, handle):
        """One address, or None."""
        for cidr in [*self.own(), *map(str, self.pool.subnets(new_prefix=self.block_length))]:
            address = yield from self.retry(self.assign_from, cidr, handle)
            if address is not None:
                return address
        return None

    def own(self):
        prefix = f"/calico/ipam/v2/host/{self.host}/ipv4/block/"
        return [
            key.removeprefix(prefix).replace("-", "/") for key in sorted(self.store.values) if key.startswith(prefix)
        ]

    def assign_from(self, cidr, handle):
        yield
        block, revision = self.get(self.block_key(cidr))
        if block is None:
            claimed = yield from self.claim(cidr)
            if not claimed:
                return None
        elif block["affinity"] == f"host:{self.host}":
            yield from self.confirm(cidr)
        yield
        block, revision = self.get(self.block_key(cidr))
        if block is None or not block["unallocated"]:
            return None
        ordinal = block["unallocated"].pop(0)
        attributes = block["attributes"] or []
        block["attributes"] = [*attributes, {"handle_id": handle, "secondary": {"node": self.host}}]
        block["allocations"][ordinal] = len(attributes)
        block["sequenceNumberForAllocation"][str(ordinal)] = block["sequenceNumber"]
        block["sequenceNumber"] += 1
        yield from self.retry(self.count, handle, cidr, 1)
        yield
        try:
            self.swap(self.block_key(cidr), block, revision)
        except Lost:
            yield from self.retry(self.count, handle, cidr, -1)
            raise
        return str(ipaddress.ip_network(cidr)[ordinal])

    def claim(self, cidr):
        yield
        _, revision = self.get(self.affinity_key(cidr))
        yield
        self.swap(self.affinity_key(cidr), {"state": "pending", "deleted": False}, revision)
        _, revision = self.get(self.affinity_key(cidr))
        size = ipaddress.ip_network(cidr).num_addresses
        fresh = {
            "cidr": cidr,
            "affinity": f"host:{self.host}",
            "affinity_claim_time": self.clock().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "allocations": [None] * size,
            "unallocated": list(range(size)),
            "attributes": None,
            "sequenceNumber": int(self.clock().timestamp()) * 1_000_000_000,
            "sequenceNumberForAllocation": {},
            "deleted": False,
        }
        yield
        try:
            self.swap(self.block_key(cidr), fresh, 0)
        except Lost:
            yield
            block, _ = self.get(self.block_key(cidr))
            if block is None or block["affinity"] != f"host:{self.host}":
                yield
                self.swap(self.affinity_key(cidr), None, revision)
                return False
        yield
        self.swap(self.affinity_key(cidr), {"state": "confirmed", "deleted": False}, revision)
        return True

    def confirm(self, cidr):
        yield
        affinity, revision = self.get(self.affinity_key(cidr))
        if affinity is None or affinity["state"] == "confirmed":
            return
        yield
        self.swap(self.affinity_key(cidr), {**affinity, "state": "pending"}, revision)
        _, pending = self.get(self.affinity_key(cidr))
        yield
        block, revision = self.get(self.block_key(cidr))
        if block is None:
            raise Lost
        yield
        self.swap(self.block_key(cidr), {**block, "sequenceNumber": block["sequenceNumber"] + 1}, revision)
        yield
        self.swap(self.affinity_key(cidr), {**affinity, "state": "confirmed"}, pending)

    def count(self, handle, cidr, number):
        yield
        tree, revision = self.get(self.handle_key(handle))
        tree = tree or {"block": {}, "deleted": False}
        total = tree["block"].get(cidr, 0) + number
        if total < 0:
            return
        tree["block"][cidr] = total
        if total == 0:
            del tree["block"][cidr]
        yield
        self.swap(self.handle_key(handle), tree if tree["block"] else None, revision)

    def release(self, handle):
        """All addresses of a handle."""
        yield
        tree, _ = self.get(self.handle_key(handle))
        for cidr in list(tree["block"]) if tree else []:
            yield from self.retry(self.release_from, cidr, handle)

    def release_from(self, cidr, handle):
        yield
        block, revision = self.get(self.block_key(cidr))
        if block is None:
            return
        held = [
            ordinal
            for ordinal, index in enumerate(block["allocations"])
            if index is not None and block["attributes"][index].get("handle_id") == handle
        ]
        if not held:
            return
        for ordinal in held:
            block["allocations"][ordinal] = None
            block["unallocated"].append(ordinal)
            block["sequenceNumberForAllocation"].pop(str(ordinal), None)
        used = sorted({index for index in block["allocations"] if index is not None})
        block["attributes"] = [block["attributes"][index] for index in used]
        block["allocations"] = [None if index is None else used.index(index) for index in block["allocations"]]
        block["sequenceNumber"] += 1
        gone = not used and block["affinity"] is None
        yield
        self.swap(self.block_key(cidr), None if gone else block, revision)
        yield from self.retry(self.count, handle, cidr, -len(held))

    def give_up(self, cidr, host):
        """Any owner's claim to a block that is empty."""
        yield
        affinity, revision = self.get(self.affinity_key(cidr, host))
        yield
        block, block_revision = self.get(self.block_key(cidr))
        if affinity is None or block is None or block["affinity"] != f"host:{host}":
            return
        if any(index is not None for index in block["allocations"]):
            return
        yield
        self.swap(self.affinity_key(cidr, host), {**affinity, "state": "pendingDeletion"}, revision)
        _, revision = self.get(self.affinity_key(cidr, host))
        yield
        self.swap(self.block_key(cidr), None, block_revision)
        yield
        self.swap(self.affinity_key(cidr, host), None, revision)
