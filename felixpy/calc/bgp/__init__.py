"""BGP resources of all kinds to what this node's speaker should be: birdpy's values."""
