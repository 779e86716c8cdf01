"""Resources of BGP, and what the speaker of one node is for them."""

from __future__ import annotations

import base64
import json

from birdpy.addresses import format_address, parse_address
from birdpy.intent import BgpIntent, Neighbor
from felixpy.calc.announcing.announcements import Announcement
from felixpy.calc.bgp.scene import HostFacts, Scene, derive_scene
from felixpy.calc.bgp.speaker import BgpPlan, derive_plan
from felixpy.resources.codec import Decoder
from felixpy.resources.kinds import KINDS, Name
from felixpy.resources.tables import Decoded
from felixpy.resources.view import View

ME, TOR, OTHER_TOR = "n1", "192.0.2.254", "192.0.2.253"


PASSWORD = "correct horse"


class World:
    """Three nodes of AS 64512 without a mesh, and what is written on top; a key with a slash is `namespace/name`."""

    def __init__(self, facts: HostFacts | None = None, announced: tuple[Announcement, ...] = ()) -> None:
        self.view = View()
        self.facts, self.announced = facts, announced
        for number, name in enumerate((ME, "n2", "n3"), start=1):
            bgp = {"ipv4Address": f"192.0.2.{number}/24", "ipv6Address": f"2001:db8::{number}/64"}
            self.put("Node", name, {"bgp": bgp}, labels={"name": name})
        self.put("BGPConfiguration", "default", {"nodeToNodeMeshEnabled": False})

    def put(self, kind: str, name: str, spec: dict[str, object], group: str = "", **rest: object) -> World:
        info = next(one for one in KINDS if one.kind == kind and (not group or one.group == group))
        namespace, _, last = name.rpartition("/")
        metadata = {"name": last, "labels": rest.pop("labels", {})}
        body = {"metadata": metadata, "spec": spec, **rest} if spec else {"metadata": metadata, **rest}
        found = Decoder(ME).decode(info.key(Name(namespace, last)).encode(), json.dumps(body).encode())
        assert isinstance(found, Decoded), found
        self.view.put(found.ref, found.value)
        return self

    def calico(self, name: str = "tor", **spec: object) -> World:
        address = {} if "peerSelector" in spec else {"peerIP": TOR, "asNumber": 65000}
        return self.put("BGPPeer", name, {**address, **spec}, "projectcalico.org")

    def metallb(self, name: str = "m/tor", **spec: object) -> World:
        given = {"myASN": 64512, "peerASN": 65000, "peerAddress": TOR, **spec}
        return self.put(
            "BGPPeer", name, {key: value for key, value in given.items() if value is not None}, "metallb.io"
        )

    def secret(self, name: str = "kube-system/tor", key: str = "password", password: str = PASSWORD) -> World:
        return self.put("Secret", name, {}, data={key: base64.b64encode(password.encode()).decode()})

    @property
    def plan(self) -> BgpPlan:
        return self.derive(*self.announced)

    def derive(self, *announced: Announcement, hidden: tuple[Announcement, ...] = ()) -> BgpPlan:
        scene = derive_scene(self.view.tables, ME, self.facts or HostFacts())
        assert isinstance(scene, Scene)
        return derive_plan(scene, announced, hidden)

    @property
    def intent(self) -> BgpIntent:
        return self.plan.intent

    @property
    def tor(self) -> Neighbor:
        return self.intent.neighbors[parse_address(TOR)]

    @property
    def addresses(self) -> list[str]:
        return [format_address(address) for address in self.intent.neighbors]

    @property
    def refused(self) -> list[tuple[str, str]]:
        return [(one.what, one.why) for one in self.plan.refusals]
