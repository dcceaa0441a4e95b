"""What a program moves is read from its text: bytes, devices and how often."""

import pytest
from benchmarks.collectives import Collective, collectives

TEXT = """HloModule jit_step

%inner (p: f32[4]) -> f32[4] {
  %all-gather.1 = f32[8,16]{1,0} all-gather(%p), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
}

%outer (p: f32[4]) -> f32[4] {
  %while.1 = f32[4] while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
  %permute = f32[10]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %while.2 = f32[4] while(%p), condition=%c, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  %sum = (f32[100]{0}, bf16[50]{0}) all-reduce(%p, %p), replica_groups=[2,4]<=[8], to_apply=%add
  %part = f32[25]{0} reduce-scatter(%p), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}
}
"""


def test_each_collective_with_its_bytes_and_times():
    assert collectives(TEXT) == [
        Collective("all-gather", 15, 4, 15 * 0.75 * 8 * 16 * 4),
        Collective("collective-permute", 3, 2, 3 * 40),
        Collective("all-reduce", 1, 4, 2 * 0.75 * (400 + 100)),
        Collective("reduce-scatter", 1, 4, 3 * 100),
    ]


def test_groups_of_an_unknown_form_are_refused():
    with pytest.raises(ValueError, match="expected replica_groups"):
        collectives(
            "ENTRY %m (p: f32[4]) -> f32[4] {\n  %s = f32[4]{0} all-reduce(%p), groups=all\n}"
        )
