"""Memory of converting: in place, never more than the float model and its largest layer."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
import torch, torchqat
from torch import nn

def status(key):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(key))

torch.set_num_threads(1)
config = getattr(torchqat.QConfig, sys.argv[1])()
x = torch.randn(2, 64)
torchqat.convert(torchqat.prepare_qat(nn.Sequential(nn.Linear(64, 64)), torchqat.QConfig.int8_dynamic()))(x)
model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(8)])
model = torchqat.prepare_qat(model, config, inplace=True)
with torch.no_grad():
    model.train()(torch.randn(2, 2048))
model.eval()
gc.collect()
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
model = torchqat.convert(model, inplace=True)
print((status("VmHWM") - before) / (2048 * 2048 * 4), (before - status("VmRSS")) / (2048 * 2048 * 4))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="reads and resets the peak in /proc")
@pytest.mark.parametrize("config", ["int8", "int4_int8", "int4_weight_only"])
def test_converting_in_place_frees_as_it_goes(config):
    run = subprocess.run([sys.executable, "-c", PROGRAM, config], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    peak, freed = map(float, run.stdout.split())
    # In layers: eight lie in memory at the beginning. All their codes together are two (8 bits) or one (4).
    assert peak <= 1.0
    assert freed >= 3.0
