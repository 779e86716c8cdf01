"""Which endpoints a Pod concerns, whatever became of them before."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from felixpy.agent.pods.own_objects import ENDPOINTS, PODS, OwnObjects
from felixpy.datastore.model import Event
from felixpy.resources.kinds import Name

_STEPS = st.lists(st.tuples(st.sampled_from(["n1-k8s-a-eth0", "n1-k8s-b-eth0"]), st.sampled_from(["a", "b", "", None])))


@given(_STEPS)
def test_a_pod_concerns_the_endpoints_that_name_it_now_and_nothing_is_kept_of_others(
    steps: list[tuple[str, str | None]],
) -> None:
    own, now = OwnObjects("n1"), {}
    for revision, (name, pod) in enumerate(steps, 1):
        key = ENDPOINTS.key(Name("default", name)).encode()
        value = None if pod is None else json.dumps({"spec": {"pod": pod}}).encode()
        own.observe(Event(key, value, revision))
        now.pop(key, None)
        if pod:
            now[key] = pod
    for pod in ("a", "b"):
        pod_key = PODS.key(Name("default", pod)).encode()
        assert own.endpoints_of(pod_key) == {key for key, of in now.items() if of == pod}
    assert len(own._of_pod) == len(set(now.values()))
