"""The agent process: composes datastore, calculations, data plane, CNI, BGP and controllers into one program."""
