"""Which policies decide about this node's endpoints, and what their selectors select."""
