"""Every example in a docstring of the package runs."""

import doctest
import importlib
import pkgutil

import pytest

import torchqat

SKIPPED = ("torchqat._C", "torchqat.__main__", "torchqat.demo", "torchqat.bench", "torchqat.cli")
MODULES = [m.name for m in pkgutil.walk_packages(torchqat.__path__, "torchqat.") if not m.name.startswith(SKIPPED)]


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    found = {t.name for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples}
    assert {"torchqat.fake_quantize.FakeQuantize", "torchqat.prepare.prepare_qat", "torchqat.convert.convert"} <= found


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
