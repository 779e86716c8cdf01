"""etcd: the client, the syncer (one snapshot, one watch, coalesced batches), and the twin in memory."""
