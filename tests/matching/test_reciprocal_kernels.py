"""The GPU kernels' arithmetic on the CPU, in Triton's interpreter, where Triton is installed."""

import importlib.util
import subprocess
import sys

import pytest

SCRIPT = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
torch.set_num_threads(1)
from matching.kernels import blocked, tensor_core
from tests.matching.descriptor_fields import flat_pair, smooth_pair

def same(found, expected):
    for ours, theirs in zip(found, expected):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

for kind in ("duplicated", "holes"):
    maps = flat_pair(kind, 41, 37, 24, seed=1)
    found = tensor_core.search_both(*tensor_core.prepare(maps))
    for ours, theirs in zip(found, blocked.search_both(*blocked.prepare(maps))):
        same(ours, theirs)
(left0, right0), (left1, right1) = (smooth_pair((5, 9), (6, 8), seed=i) for i in (1, 2))
maps = [left0, left1, right0, right1]
asked = torch.tensor([[3, 44, -1, 7], [0, 1, 2, 3]])
results, ways = [], []
returned = torch.tensor([[4, 44, 3, 15], [-1, 1, 9, 19]])
for engine in (tensor_core, blocked):
    prepared = engine.prepare([*maps, maps[0][:, :1], maps[1][:3]])
    results.append(engine.search(prepared[:2], asked, prepared[2:4]))
    ways.append([])
    for tolerance in (0, 1.5, 2):
        for first in (0, 2, 4):
            near, far = prepared[first : first + 2], prepared[4 - first : 6 - first]
            ways[-1] += engine.check_return(near, asked, far, results[-1][0], returned, tolerance)
same(*results)
same(*ways)
states = []
for engine in (tensor_core, blocked):
    rng = torch.Generator().manual_seed(3)
    state = [torch.randint(-1, 4, (1, 300), generator=rng) for _ in range(6)]
    state[5][state[4] < 0] = -1  # what was not found does not lead back
    for _ in range(2):
        state.append(torch.tensor([engine.advance(*state[:6])]))
    states.append(state)
same(*states)
assert 0 < states[0][6] < 300
small = [maps[0][:3, :4], maps[2][:3, :4]]
found = tensor_core.search_both(*tensor_core.prepare(small), 1.5)
for ours, theirs in zip(found, blocked.search_both(*blocked.prepare(small), 1.5)):
    same(ours, theirs)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_interpreted_kernels_agree_with_the_cpu_engine() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
