"""The agent process: composes datastore, calculations, data plane, CNI, BGP and controllers into one program.

`main` (signals, words) → `settings` → `process` (the roles, over one syncer) → `agent` (the agent role) and
`routing/role` (the bgp role). By subject: `kernel/` (what is applied and repaired), `pods/`, `services/`, `node/` (its
name, its Node), `flows/`, `doors/` (who asks). `exclusive` holds locks, `bootstrap` and `chores` make what nobody has.
"""
