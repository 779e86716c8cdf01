"""The CNI plugin's server side, its wire format and the static shim that container runtimes start.

A call's way: `shim/` (C) → `wire` (frames) → `channel` and `server` (the socket) → `verbs` (what happens, in order),
which asks `plan` (names, addresses, wiring; pure) what is wanted, `backend` (a Protocol) for addresses and endpoint,
`wirer` for the kernel; `result` and `errors` are what the runtime reads. `netconf` and `pod_args` parse what it says,
`endpoint` is what stays in the datastore, `pending` what a DEL could not do yet, `leaks` what nobody gave back.
`install` puts the plugin where runtimes look; `client` is the shim in Python.
"""
