"""The typed kinds, their codec (the only place that knows etcd paths) and the View of all of them."""
