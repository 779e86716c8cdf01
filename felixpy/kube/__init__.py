"""From the Kubernetes API to the datastore, and a Service's address back: for clusters that have an API server.

Nodes never speak with the API server; one elected process reads it and writes what the agents read into etcd.

`access` and `client` speak with the server, `reflector` follows a kind. `importer` brings objects in: `convert` (what
is kept of one) and `mirror` (what is to be written) are pure, `node_labels` is for Nodes. What goes back:
`service_addresses`, `service_events`, `service_reports` and `pool_counts`, over `status_patches` and `service_uids`.
"""
