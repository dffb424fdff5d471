"""Every part of every suite runs from start to end, in a process of its own; what it measures is not looked at."""

import subprocess
import sys

import pytest

from torchqat.bench import SUITES

PARTS = [(suite, part) for suite, parts in SUITES.items() for part in parts]


@pytest.mark.parametrize("suite, part", PARTS, ids=[part for _, part in PARTS])
def test_a_quick_run_comes_to_its_end(suite, part):
    command = [sys.executable, "-m", "torchqat", "bench", "--suite", suite, "--part", part]
    done = subprocess.run([*command, "--threads", "1", "--quick", "--seconds", "0.01"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "targets met" in done.stdout
