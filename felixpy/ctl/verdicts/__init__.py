"""Whose packets would meet another fate if some objects were otherwise: each pair of ends, and what decides.

`world` answers what policy asks of a cluster, `hosts` what host endpoints decide at a node's interfaces, `ways` what a
packet meets at either end. `clauses` puts the compiled rules of a way into the order in which they decide, `cells`
divides all packets into those that no rule tells apart, `classes` divides addresses so, `settle` says what becomes of
all cells at once. `shifts` finds what the change touches, `compare` the pairs and packets that differ; `groups` puts
together what fares alike and `text` prints it. `leads` are the Services of both, `reach` follows them to the backends.
"""
