"""A cluster of nodes, pods and policies to explain."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.etcd import Etcd

CALICO = "/calico/resources/v3/projectcalico.org"


APPLIED = """
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: open}
spec: {ingress: [{action: Allow}], egress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: default}
spec: {order: 1000000}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.quarantine}
spec:
  tier: security
  selector: all()
  types: [Ingress, Egress]
  ingress:
  - {action: Deny, source: {selector: quarantined == 'yes'}}
  - {action: Pass}
  egress: [{action: Pass}]
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  selector: app == 'web'
  ingress:
  - {action: Allow, http: {methods: [GET]}, protocol: TCP}
  - {action: Log}
  - {action: Allow, protocol: TCP, source: {selector: app == 'client'}, destination: {ports: [http]}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1]
  ports: [{name: http, port: 80, targetPort: 8080, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.0.2.1], nodeName: n2, conditions: {ready: true}}
- {addresses: [10.0.1.2], nodeName: n1, conditions: {ready: true}}
"""


def put_endpoint(etcd: Etcd, node: str, pod: str, device: str, addresses: Sequence[str], **labels: str) -> None:
    name = f"{node}-k8s-{pod.replace('-', '--')}-eth0"
    spec = {
        "node": node,
        "orchestrator": "k8s",
        "pod": pod,
        "endpoint": "eth0",
        "interfaceName": device,
        "ipNetworks": [f"{address}/{128 if ':' in address else 32}" for address in addresses],
        "profiles": ["open"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }
    meta = {"name": name, "namespace": "default", "labels": {"projectcalico.org/namespace": "default", **labels}}
    body = {"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3", "metadata": meta, "spec": spec}
    etcd.put(f"{CALICO}/workloadendpoints/default/{name}", body)


def put_node(etcd: Etcd, name: str, address: str) -> None:
    body = {"kind": "Node", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}}
    etcd.put(f"{CALICO}/nodes/{name}", {**body, "spec": {"bgp": {"ipv4Address": f"{address}/24"}}})
