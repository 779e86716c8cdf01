"""What ops are in words: a command that does the same, as one would type it."""

from __future__ import annotations

import pytest

from felixpy.addresses import parse_address, parse_prefix
from felixpy.dataplane.describe import describe_op
from felixpy.dataplane.objects import (
    DeviceAddress,
    Drop,
    FdbEntry,
    IpRule,
    Link,
    Neighbour,
    NextHop,
    Object,
    Put,
    Route,
    VxlanSettings,
)
from felixpy.drivers.netlink.rtnetlink import RouteDriver
from felixpy.drivers.netlink.socket import in_namespace
from tests.support.netns import Namespace

MAC = bytes.fromhex("66f409ca1b0c")
DEVICE = Link("vxlan.calico", VxlanSettings(4096, 4789, "lo", parse_address("127.0.0.1")), 1450, MAC)
OBJECTS: dict[str, Object] = {
    "ip addr del 10.0.1.2/32 dev vxlan.calico": DeviceAddress("vxlan.calico", parse_prefix("10.0.1.2")),
    "ip neigh del fe80::1 dev vxlan.calico": Neighbour("vxlan.calico", parse_address("fe80::1"), MAC),
    "bridge fdb del 66:f4:09:ca:1b:0c dev vxlan.calico": FdbEntry("vxlan.calico", MAC, parse_address("192.0.2.9")),
    "ip nexthop del id 77": NextHop(77, device="vxlan.calico", protocol=176),
    "ip -6 rule del pref 99": IpRule(6, 99, 0x10, 0x10, 250),
    "ip route del 10.64.0.0/26 table 254 metric 512": Route(
        parse_prefix("10.64.0.0/26"), 176, device="vxlan.calico", metric=512
    ),
}


@pytest.mark.parametrize("words", OBJECTS)
def test_what_an_op_takes_away_goes_by_the_words_for_it(words: str) -> None:
    one = OBJECTS[words]
    assert describe_op(Drop(one.key)) == words
    with Namespace.create("w") as namespace, in_namespace(namespace.path, RouteDriver) as driver:
        assert not [it.error for it in driver.apply([Put(DEVICE), Put(one)]) if it.error]
        namespace.run(*words.split())
        assert one.key not in driver.read().objects
        namespace.run(*describe_op(Drop(DEVICE.key)).split())
        assert DEVICE.key not in driver.read().objects
