"""Other runtimes on the same network, one thread each, where they are installed. Each function gives a call without
arguments, or None after a note that says why not."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from torchqat.bench.harness import Report

Call = Callable[[], object]


def _missing(report: Report, name: str, error: Exception) -> None:
    report.note(f"{name}: not measured ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]})")


def torch_dynamic(report: Report, model: nn.Module, x: torch.Tensor) -> Call | None:
    """torch.ao's eager dynamic int8 (FBGEMM or oneDNN), while torch still has it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
        peer(x)
    except (AttributeError, RuntimeError) as error:
        return _missing(report, "torch.ao int8 dynamic", error)
    return lambda: peer(x)


def torchao_int8_dynamic(report: Report, model: nn.Module, x: torch.Tensor) -> Call | None:
    """torchao's int8 weights with int8 activations per token, eager."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            peer = copy.deepcopy(model)
            quantize_(peer, Int8DynamicActivationInt8WeightConfig())
            peer(x)
    except Exception as error:  # noqa: BLE001 - a peer may be missing or refuse the network; the table says so
        return _missing(report, "torchao int8 dynamic", error)
    return lambda: peer(x)


def aten_int4(report: Report, model: nn.Module, x: torch.Tensor, group: int = 32) -> Call | None:
    """torch's own int4 operator under bfloat16 activations, in place of every nn.Linear; other layers run in bfloat16."""

    class Int4(nn.Module):
        def __init__(self, layer: nn.Linear):
            super().__init__()
            codes = torch.randint(0, 16, layer.weight.shape, dtype=torch.int32)
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
            self.scales = torch.rand(layer.in_features // group, layer.out_features, 2).bfloat16() / 100
            self.bias = None if layer.bias is None else layer.bias.detach().bfloat16()

        def forward(self, x):
            y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, group, self.scales)
            return y if self.bias is None else y + self.bias

    try:
        peer = copy.deepcopy(model).bfloat16()
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear):
                peer.set_submodule(name, Int4(layer))
        low = x.bfloat16()
        peer(low)
    except Exception as error:  # noqa: BLE001 - as above
        return _missing(report, "aten int4", error)
    return lambda: peer(low)


def _onnxruntime_session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnxruntime_int8(report: Report, model: nn.Module, x: torch.Tensor) -> Call | None:
    """onnxruntime's own static int8 of the float network."""
    try:
        from onnxruntime import quantization as ort

        logging.disable(logging.WARNING)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path, quantised = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            torch.onnx.export(copy.deepcopy(model).eval(), (x,), str(path), input_names=["x"], dynamo=False)

            class Reader(ort.CalibrationDataReader):
                def __init__(self):
                    self.batches = iter([{"x": x.numpy()}])

                def get_next(self):
                    return next(self.batches, None)

            ort.quantize_static(str(path), str(quantised), Reader(), per_channel=True, reduce_range=False,
                                activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8)  # fmt: skip
            session = _onnxruntime_session(quantised)
    except Exception as error:  # noqa: BLE001 - a peer may be missing or refuse the network; the table says so
        return _missing(report, "onnxruntime", error)
    finally:
        logging.disable(logging.NOTSET)
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


def onnxruntime_int4(report: Report, model: nn.Module, x: torch.Tensor, group: int = 32) -> Call | None:
    """onnxruntime's MatMulNBits with int4 weights in groups and int8 arithmetic."""
    try:
        import onnx
        from onnxruntime.quantization import matmul_nbits_quantizer as ort

        logging.disable(logging.WARNING)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path, quantised = Path(folder) / "float.onnx", Path(folder) / "int4.onnx"
            # Without biases: a Gemm, which is what torch exports of a linear layer with one, is not among what it quantises.
            model = copy.deepcopy(model).eval()
            for layer in model.modules():
                if isinstance(layer, nn.Linear):
                    layer.bias = None
            torch.onnx.export(model, (x[None],), str(path), input_names=["x"], dynamo=False)
            quantizer = ort.MatMulNBitsQuantizer(onnx.load(path), block_size=group, is_symmetric=True, accuracy_level=4)
            quantizer.process()
            if not any(node.op_type == "MatMulNBits" for node in quantizer.model.model.graph.node):
                raise RuntimeError("no MatMulNBits in the quantised graph")
            quantizer.model.save_model_to_file(str(quantised))
            session = _onnxruntime_session(quantised)
    except Exception as error:  # noqa: BLE001 - as above
        return _missing(report, "onnxruntime int4", error)
    finally:
        logging.disable(logging.NOTSET)
    feed = {"x": x[None].numpy()}
    return lambda: session.run(None, feed)


def openvino_qdq(report: Report, converted: nn.Module, x: torch.Tensor) -> Call | None:
    """OpenVINO on the Q/DQ graph that torchqat exports. It runs in threads of its own: measure by wall time."""
    try:
        import openvino

        import torchqat

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "qdq.onnx"
            torchqat.export_onnx(converted, x, path)
            core = openvino.Core()
            compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1})
            request = compiled.create_infer_request()
            tensor = openvino.Tensor(x.numpy(), shared_memory=True)
            request.infer([tensor])
    except Exception as error:  # noqa: BLE001 - as above
        return _missing(report, "OpenVINO", error)
    return lambda: request.infer([tensor])
