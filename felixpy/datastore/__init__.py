"""etcd: the client, the syncer (one snapshot, one watch, coalesced batches), and the twin in memory.

`model` is what everyone else knows: the Store. `client` is etcd's, over `connection` (members, tokens, deadlines),
`rpc` (the messages), `watch` and `lease`; `memory` is its twin. `syncer` keeps a copy true, by `cluster` (what may be
obeyed) and `remembered` (the node's state file), through `mailbox`; `follow` is the same for a few prefixes. `probe`
finds out why there is no answer; `local` is an etcd of one's own.
"""
