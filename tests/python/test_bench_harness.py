"""The bench harness: what it measures, the verdict on a target, and its output."""

import json
import subprocess
import sys
import time

import pytest
import torch

import torchqat
from torchqat import bench
from torchqat.bench.harness import Report, at_least, at_most, kept_memory, measure, saved_bytes


def busy(seconds):
    def call():
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return call


def test_medians_follow_the_work_and_the_thread_count_is_restored():
    before = torch.get_num_threads()
    times = measure({"short": busy(0.002), "long": busy(0.006)}, seconds=0.05, min_rounds=3)
    assert 0.0019 < times["short"] < times["long"]
    assert 2 < times["long"] / times["short"] < 4
    assert torch.get_num_threads() == before


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="clock must be"):
        measure({"a": lambda: None}, clock="moon")
    with pytest.raises(ValueError, match="at least one callable"):
        measure({})
    with pytest.raises(ValueError, match="has no line 'b'"):
        Report("none").group("title", {"a": lambda: None}, baseline="b")


def test_targets_have_a_verdict_each_way():
    times = {"ours": 1.0, "theirs": 3.0}
    assert at_least(3, "theirs").met(at_least(3, "theirs").ratio(times, "ours"))
    assert not at_least(3.1, "theirs").met(at_least(3.1, "theirs").ratio(times, "ours"))
    assert at_most(0.4, "theirs").met(at_most(0.4, "theirs").ratio(times, "ours"))
    assert not at_most(0.3, "theirs").met(at_most(0.3, "theirs").ratio(times, "ours"))


def test_report_counts_missed_targets_and_writes_json(tmp_path, capsys):
    report = Report("demo", threads=(1,), seconds=0.02)
    report.header()
    calls = {"fast": busy(0.001), "slow": busy(0.004)}
    report.group("pair", calls, baseline="slow", targets={"fast": [at_least(2, "slow"), at_most(0.01, "slow")]})
    report.values("bytes", {"fast": 0.125, "slow": 4.0}, "bytes per element", {"slow": 1.0})
    path = tmp_path / "rows.json"
    assert report.finish(str(path)) == 2
    text = capsys.readouterr().out
    assert "torch " + torch.__version__ in text
    assert text.count("MISSED") == 2
    assert "1 of 3 targets met" in text
    rows = json.loads(path.read_text())["rows"]
    assert [row["line"] for row in rows] == ["fast", "slow", "fast", "slow"]
    assert rows[0]["targets"][0]["met"]


def test_saved_bytes_counts_storages_once():
    x = torch.randn(100, requires_grad=True)
    assert saved_bytes(lambda: x * 2) == 0
    assert saved_bytes(lambda: x.exp()) == 400
    assert saved_bytes(lambda: x * x) == 400


def test_kept_memory_avoids_page_faults():
    resource = pytest.importorskip("resource")

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.empty(1 << 23).fill_(1.0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_memory(256 << 20) as kept:
        if not kept:
            pytest.skip("this C library has no mallopt")
        faults()
        assert faults() < 100


def test_command_line_refuses_an_unknown_suite(capsys):
    with pytest.raises(SystemExit):
        bench.run(["--suite", "nonsense"])
    assert "invalid choice" in capsys.readouterr().err


def test_isa_holds_torchqat_and_its_peers():
    script = (
        "import torch; from torchqat import bench\n"
        "bench.run(['--isa', 'avx2', '--suite', 'fake_quant', '--part', 'none'])\n"
        "print(torch.backends.cpu.get_cpu_capability())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if "avx2" not in torchqat._C.supported_isas():
        assert "--isa must be one of" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    assert "isa avx2" in done.stdout and "ONEDNN_MAX_CPU_ISA=AVX2" in done.stdout
    assert done.stdout.splitlines()[-1] == "AVX2"
