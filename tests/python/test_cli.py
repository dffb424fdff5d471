"""`python -m torchqat`: what each command line prints and returns, run as a user would."""

import subprocess
import sys

import pytest

from torchqat import cli


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "torchqat", *arguments], capture_output=True, text=True, timeout=120)


def test_without_a_command_prints_help_and_fails():
    result = run()
    assert result.returncode == 2
    assert "demo" in result.stdout and "bench" in result.stdout and "inspect" in result.stdout


def test_version_names_torch_and_the_cpu_paths():
    result = run("--version")
    assert result.returncode == 0
    assert "torch" in result.stdout and "scalar" in result.stdout


def test_unknown_command_is_refused_by_name():
    result = run("train")
    assert result.returncode == 2
    assert "train" in result.stderr


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_bench_forwards_its_options(monkeypatch):
    import torchqat.bench

    seen = []
    monkeypatch.setattr(torchqat.bench, "run_options", lambda options: seen.append(options) or 3)
    assert cli.main(["bench", "--suite", "fake_quant", "--seconds", "0.5", "--threads", "1"]) == 0
    assert seen[0].suite == ["fake_quant"] and seen[0].seconds == 0.5 and seen[0].threads == (1,)


def test_bench_refuses_an_unknown_suite(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--suite", "nothing"])
    assert ended.value.code == 2
    assert "nothing" in capsys.readouterr().err


def test_a_missing_extra_names_the_packages_and_the_extra(monkeypatch, capsys):
    find = cli.importlib.util.find_spec
    absent = ("matplotlib", "rich")
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name in absent else find(name))
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    assert error == "torchqat demo: needs matplotlib and rich; install the extra: pip install 'torchqat[demo]'\n"
