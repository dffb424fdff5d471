"""The command line: `python -m torchqat {demo,bench,inspect}`, also installed as `torchqat`. Commands are imported when chosen."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

# command -> (module with add_arguments(parser) and run_options(options) -> exit status, one line of help, imports it needs,
#             the extra that installs them)
COMMANDS: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "demo": (
        "torchqat.demo.command",
        "the main job on real data, start to end, with a table, plots and an HTML report",
        ("matplotlib", "rich"),
        "demo",
    ),
    "bench": ("torchqat.bench", "kernels and steps against what a user would pick instead, with ratios", (), "bench"),
    "inspect": (
        "torchqat.inspect",
        "what a saved or importable model contains: size, schemes, coverage",
        (),
        "",
    ),
}


def missing_extra(command: str) -> str | None:
    """The message for a command whose optional packages are not installed, or None."""
    _, _, needed, extra = COMMANDS[command]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"torchqat {command}: needs {' and '.join(missing)}; install the extra: pip install 'torchqat[{extra}]'"


def build_parser(commands: Sequence[str]) -> argparse.ArgumentParser:
    """The parser, with the options of the named commands filled in (importing only those)."""
    parser = argparse.ArgumentParser(
        prog="python -m torchqat", description="Quantization-aware training for PyTorch: what you train is what ships."
    )
    parser.add_argument("--version", action="store_true", help="print versions and CPU paths, then exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, text, _, _) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name in commands:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def _print_version() -> None:
    import torch

    import torchqat
    from torchqat import _C

    print(f"torchqat {torchqat.__version__}, torch {torch.__version__}")
    print(f"CPU paths: {', '.join(_C.supported_isas())}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    chosen = [word for word in argv if not word.startswith("-")][:1]
    if chosen and chosen[0] in COMMANDS:
        message = missing_extra(chosen[0])
        if message is not None:
            print(message, file=sys.stderr)
            return 2
    parser = build_parser(chosen)
    options = parser.parse_args(argv)
    if options.version:
        _print_version()
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    # A bench that misses targets says so in its report; like the other commands it then still ends with status 0.
    status = importlib.import_module(COMMANDS[options.command][0]).run_options(options)
    return 0 if options.command == "bench" else status
