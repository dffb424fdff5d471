"""`python -m torchqat.bench`: the bench command by itself. Missed targets are shown, not an exit status."""

from torchqat.bench import run

run()
