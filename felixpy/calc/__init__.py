"""From resources to what this node should be: pure and incremental, with a from-scratch oracle beside it."""
