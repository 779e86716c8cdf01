"""Where people and machines ask a process how it stands: datastore, control socket, HTTP."""
