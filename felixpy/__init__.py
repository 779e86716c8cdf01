"""The node agent: pod routes, policy, tunnels and Service load balancing from etcd state."""
