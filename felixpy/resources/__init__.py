"""The typed kinds, their codec (the only place that knows etcd paths) and the View of all of them.

`kinds`: names and keys. `documents`, `kube_documents`, `bgp_documents`, `admin_documents`: the JSON, field by field.
`types`, `policy_types`, `service_types`, `bgp_types`: what calculations read. From the ones to the others: `policies`,
`admin_policies`, `services`, `endpoints`, `routing`, `felix`, `settings`, `bgp`, `bgp_filters`, `bgp_extras`, over
`scalars`; `readers` is the table of them, `codec` and `identity` apply it. `resource` (the union of all), `tables` and
`view` hold what was read; `foreign_json` is for those who need a field or two.
"""
