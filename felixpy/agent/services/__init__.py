"""Services through the roles of one process: served, announced, answered for, in that order."""
