"""The GPU bench where there is no GPU: its refusal, its timing by events, and the count of blocking calls."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from torchqat import bench
from torchqat.bench.cuda_train_step import blocking_calls
from torchqat.bench.harness import Report, measure


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_reason_is_said():
    done = subprocess.run(
        [sys.executable, "-m", "torchqat", "bench", "--device", "cuda"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "--device cuda needs a CUDA device" in done.stderr


def test_every_suite_has_parts_on_both_devices():
    import importlib

    assert set(bench.SUITES) == set(bench.CUDA_SUITES)
    for parts in bench.CUDA_SUITES.values():
        for part in parts:
            assert callable(importlib.import_module(f"torchqat.bench.{part}").run)


class FakeEvents:
    """A device clock that only the measured calls move."""

    now = 0.0

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = FakeEvents.now

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return end.at - self.at


def test_events_are_the_clock(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvents.Event)

    def call(milliseconds):
        def run():
            FakeEvents.now += milliseconds

        return run

    times = measure({"one": call(1.0), "three": call(3.0)}, clock="cuda", seconds=0.01, min_rounds=3)
    assert times["one"] == pytest.approx(0.001) and times["three"] == pytest.approx(0.003)
    report = Report("none", threads=(1,), seconds=0.01, clock="cuda")
    report.group("title", {"one": call(1.0)}, baseline="one")
    assert "title  [GPU]" in capsys.readouterr().out


def test_blocking_calls_are_counted_within_steps():
    def event(name, start, end):
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end))

    events = [event("step", 10, 20), event("step", 30, 40), event("cudaLaunchKernel", 11, 12)]
    assert blocking_calls(events, "step") == 0
    events += [
        event("cudaStreamSynchronize", 12, 13),
        event("cudaMemcpy", 31, 32),
        event("cudaDeviceSynchronize", 50, 51),
    ]
    assert blocking_calls(events, "step") == 2
