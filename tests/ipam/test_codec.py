"""What Calico wrote is read rightly and written back byte for byte; what it would not write is refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.addresses import parse_prefix
from ipam.block import assign, new_block, stamp
from ipam.codec import (
    Malformed,
    parse_affinity,
    parse_block,
    parse_config,
    parse_handle,
    parse_pool,
    parse_reservation,
    render_affinity,
    render_block,
    render_config,
    render_handle,
)
from ipam.model import (
    CONFIG_KEY,
    LOAD_BALANCER,
    AffinityState,
    Config,
    Owner,
    OwnerKind,
    Use,
    affinity_key,
    block_key,
    handle_key,
    node_owner,
    parse_affinity_key,
    parse_block_key,
    parse_handle_key,
)

NOW = datetime(2026, 8, 22, 6, 33, 20, tzinfo=UTC)

FRESH = (
    b'{"cidr":"10.0.0.0/30","affinity":"host:n1","affinity_claim_time":"2026-08-22T06:33:20Z",'
    b'"allocations":[null,null,null,null],"unallocated":[0,1,2,3],"attributes":null,'
    b'"sequenceNumber":1787380400000000000,"sequenceNumberForAllocation":{},"deleted":false}'
)
USED = (
    b'{"cidr":"10.0.0.0/28","affinity":"host:n1","affinity_claim_time":"2026-08-22T06:33:20Z",'
    b'"allocations":[0,1,1,null,null,null,null,null,null,null,0,null,null,null,null,null],'
    b'"unallocated":[5,6,7,8,9,11,12,13,14,15,3,4],'
    b'"attributes":[{"handle_id":"k8s-pod-network.4f5a","secondary":{"namespace":"a\\u0026b","node":"n1","pod":"web-1",'
    b'"timestamp":"2026-08-22 06:33:20 +0000 UTC"}},{"releasedAt":"2026-08-22T06:33:20Z"}],'
    b'"sequenceNumber":1787380400000000003,"sequenceNumberForAllocation":{"0":1787380400000000000,'
    b'"1":1787380400000000002,"10":1787380400000000001,"2":1787380400000000002},"deleted":false}'
)
ORPHAN = (
    b'{"cidr":"fd00::/127","affinity":null,"allocations":[null,0],"unallocated":[0],'
    b'"attributes":[{"handle_id":"","secondary":{"type":"ipipTunnelAddress"},"alternateOwnerAttrs":{"pod":"b"}}],'
    b'"sequenceNumber":7,"sequenceNumberForAllocation":null,"deleted":false,"hostAffinity":"n1","later":{"b":[1,null],"a":2}}'
)


@pytest.mark.parametrize("written", [FRESH, USED, ORPHAN], ids=["fresh", "used", "orphan"])
def test_blocks_of_calico_survive_byte_for_byte(written):
    assert render_block(parse_block(written)) == written


def test_a_new_block_is_what_calico_writes():
    assert render_block(new_block(parse_prefix("10.0.0.0/30"), node_owner("n1"), NOW)) == FRESH


def test_an_assignment_is_what_calico_writes():
    block = parse_block(FRESH)
    for _ in range(2):
        block = stamp(assign(block, block.unallocated[0], "k8s-pod-network.4f5a", {"pod": "web-1", "node": "n1"}))
    assert render_block(block) == (
        b'{"cidr":"10.0.0.0/30","affinity":"host:n1","affinity_claim_time":"2026-08-22T06:33:20Z",'
        b'"allocations":[0,0,null,null],"unallocated":[2,3],'
        b'"attributes":[{"handle_id":"k8s-pod-network.4f5a","secondary":{"node":"n1","pod":"web-1"}}],'
        b'"sequenceNumber":1787380400000000002,'
        b'"sequenceNumberForAllocation":{"0":1787380400000000000,"1":1787380400000000001},"deleted":false}'
    )


def test_nulls_of_old_versions_are_dropped_as_calico_drops_them():
    old = USED.replace(b'{"releasedAt":"2026-08-22T06:33:20Z"}', b'{"handle_id":null,"secondary":null}')
    assert parse_block(old).attributes[1].handle_id is None
    assert b"{}" in render_block(parse_block(old))


@pytest.mark.parametrize(
    ("find", "put", "field"),
    [
        (b"[0,1,1,", b"[0,1,", "allocations"),
        (b"[0,1,1,", b"[0,1,2,", "allocations"),
        (b"[0,1,1,", b"[0,1,true,", "allocations"),
        (b"[5,6,", b"[0,6,", "unallocated"),
        (b"[5,6,", b"[5,5,", "unallocated"),
        (b"[5,6,", b"[16,6,", "unallocated"),
        (b'"10.0.0.0/28"', b'"10.0.0.0/33"', "cidr"),
        (b'"2026-08-22T06:33:20Z","alloc', b'"yesterday","alloc', "affinity_claim_time"),
        (b'"host:n1"', b"3", "affinity"),
        (b'"deleted":false}', b'"deleted":false', ""),
    ],
)
def test_a_block_that_contradicts_itself_is_refused_by_field(find, put, field):
    with pytest.raises(Malformed) as refusal:
        parse_block(USED.replace(find, put))
    assert refusal.value.field == field


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_garbage_is_malformed_and_nothing_else(value):
    for parse in (parse_block, parse_affinity, parse_handle, parse_config, parse_pool, parse_reservation):
        try:
            parse(value)
        except Malformed:
            continue


@pytest.mark.parametrize(
    "written",
    [b'{"state":"confirmed","deleted":false}', b'{"state":"pendingDeletion","deleted":false,"x":1}'],
)
def test_affinities_survive(written):
    assert render_affinity(parse_affinity(written)) == written


def test_an_affinity_without_value_is_confirmed():
    affinity = parse_affinity(b"")
    assert (affinity.state, affinity.is_confirmed) == (AffinityState.UNSTATED, True)


def test_handles_survive_with_blocks_in_order_of_text():
    written = b'{"block":{"10.0.0.128/26":1,"10.0.0.64/26":2,"fd00::/122":1},"deleted":false,"x":null}'
    assert render_handle(parse_handle(written)) == written


def test_config_defaults_differ_from_an_empty_config():
    assert Config().auto_allocate_blocks
    assert not parse_config(b"{}").auto_allocate_blocks


def test_config_survives():
    written = (
        b'{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":4,'
        b'"kubeVirtVMAddressPersistence":"Enabled","ipCooldownSeconds":60}'
    )
    assert render_config(parse_config(written)) == written


def test_a_pool_is_read_with_its_defaults():
    pool = parse_pool(b'{"metadata":{"name":"v6"},"spec":{"cidr":"fd00::/48","natOutgoing":true}}')
    assert (pool.name, str(pool.cidr), pool.block_length, pool.automatic) == ("v6", "fd00::/48", 122, True)
    assert pool.uses == {Use.WORKLOAD, Use.TUNNEL}


@pytest.mark.parametrize("spec", ['"cidr":"10.0.0.0/16","blockSize":33', '"cidr":"10.0.0.0/28"', '"cidr":"x"'])
def test_a_pool_whose_blocks_do_not_fit_is_refused(spec):
    with pytest.raises(Malformed):
        parse_pool(b'{"metadata":{"name":"p"},"spec":{%s}}' % spec.encode())


def test_keys_are_calicos():
    v4, v6 = parse_prefix("10.0.0.0/26"), parse_prefix("fd00:10::/122")
    assert block_key(v4) == "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26"
    assert block_key(v6) == "/calico/ipam/v2/assignment/ipv6/block/fd00:10::-122"
    assert affinity_key(node_owner("n-1"), v4) == "/calico/ipam/v2/host/n-1/ipv4/block/10.0.0.0-26"
    assert affinity_key(LOAD_BALANCER, v4) == "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.0.0.0-26"
    assert handle_key("k8s-pod-network.1") == "/calico/ipam/v2/handle/k8s-pod-network.1"
    assert CONFIG_KEY == "/calico/ipam/v2/config"


def test_keys_are_read_back():
    v6 = parse_prefix("fd00:10::/122")
    assert parse_block_key(block_key(v6)) == v6
    assert parse_affinity_key(affinity_key(LOAD_BALANCER, v6)) == (Owner(OwnerKind.VIRTUAL, "load-balancer"), v6)
    assert parse_handle_key(handle_key("a.b")) == "a.b"
    assert parse_affinity_key(block_key(v6)) is None
    assert parse_block_key("/calico/ipam/v2/assignment/ipv4/block/nonsense") is None
