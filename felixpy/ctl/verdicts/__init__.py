"""Whose packets would meet another fate if some objects were otherwise: each pair of endpoints, and what decides.

`world` answers what policy asks of a cluster, `judge` puts the compiled rules of one endpoint into the order in which
they decide, `cells` divides all packets into those that no rule tells apart, `compare` finds the pairs and packets
that differ between two worlds without looking at each pair, `text` prints them.
"""
