"""From the Kubernetes API to the datastore, and a Service's address back: for clusters that have an API server.

Nodes never speak with the API server; one elected process reads it and writes what the agents read into etcd.
"""
