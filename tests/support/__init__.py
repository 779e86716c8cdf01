"""What tests share: namespaces, daemons, a private etcd, real packets, and waiting for an effect."""
