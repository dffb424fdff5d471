"""A build with CUDA, smoke-run where there may be no GPU: `make cuda-link` runs it on what it has just built.

Every op with a CPU kernel has a CUDA one, a small model trains, converts and gives equal bits on the CPU; and with a GPU on it too,
without one the message of .cuda() is torch's own.
"""

import torch
from torch import nn

import torchqat


def equal_after_training(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 16)).to(device)
    for name in ("int8", "int8_dynamic", "fp8", "mxfp8", "nvfp4"):
        prepared = torchqat.prepare_qat(model, getattr(torchqat.QConfig, name)())
        x = torch.randn(4, 3, 8, 8, device=device)
        prepared(x).square().sum().backward()
        prepared.eval()
        converted = torchqat.convert(prepared)
        expected, found = prepared(x), converted(x)
        exact = name.startswith("int8")
        same = torch.equal(expected, found) if exact else torch.allclose(expected, found, rtol=1e-4, atol=1e-4)
        assert same and expected.isfinite().all(), (name, device)


def main():
    print("torch", torch.__version__, "CUDA", torch.version.cuda, "torchqat", torchqat.__file__)
    assert torch.version.cuda is not None, "this torch was built without CUDA"
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [n for n in torch._C._dispatch_get_all_op_names() if n.startswith("torchqat::") and has(n, "CPU")]
    served = lambda n: has(n, "CUDA") or has(n, "CompositeExplicitAutograd")
    missing = [n for n in names if not served(n) and "_cpu_isa" not in n]
    assert len(names) >= 40 and not missing, f"no CUDA kernel: {missing}"
    print(len(names), "ops, each with a form for CUDA")
    equal_after_training("cpu")
    print("CPU: trained, converted, equal")
    if torch.cuda.is_available():
        equal_after_training("cuda")
        print("CUDA: trained, converted, equal on", torch.cuda.get_device_name())
        return
    try:
        torch.ones(1).cuda()
    except (RuntimeError, AssertionError) as error:
        print("no GPU:", str(error).splitlines()[0])
    else:
        raise AssertionError("a tensor went to a device that is not there")


if __name__ == "__main__":
    main()
