"""Which addresses this node announces or answers for, to whom, and why not."""
