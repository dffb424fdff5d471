"""Every guide in docs/ does what it says: its Python blocks run in order, its programs are written to files and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GUIDES = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))
BLOCK = re.compile(r"```(\w+)\n(.*?)```", flags=re.DOTALL)
# The first line of a block that is a file of its own.
FILE = re.compile(r"(?:#|//) ([\w.]+\.(?:py|cpp|txt))\n")


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # this run's python
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands(block):
    """The lines of a shell block, but for what installs packages."""
    for line in block.replace("\\\n", " ").splitlines():
        words = line.partition("#")[0].strip()
        if words and not words.startswith("pip "):
            yield re.sub(r"^torchrun", "python -m torch.distributed.run", words)


def test_there_are_guides():
    assert {"camera.md", "language_model.md", "robotics.md"} <= {guide.name for guide in GUIDES}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_guide_runs(guide, tmp_path, monkeypatch):
    text = guide.read_text()
    for module in set(re.findall(r"^(?:from|import) (\w+)", text, flags=re.MULTILINE)):
        pytest.importorskip(module)
    if "```cmake" in text and shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"__name__": "guide"}
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for found in blocks:
        language, block = found.groups()
        file = FILE.match(block)
        if file:
            Path(file.group(1)).write_text(block)
        elif language == "python":
            above = "\n" * (text.count("\n", 0, found.start()) + 1)  # tracebacks then point into the guide
            exec(compile(above + block, str(guide), "exec"), names)  # noqa: S102
        elif language == "bash":
            for command in commands(block):
                run(["bash", "-c", command], tmp_path)
