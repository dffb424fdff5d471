"""quantize and dequantize: codes, dtypes, ONNX's QuantizeLinear and DequantizeLinear."""

import ml_dtypes
import numpy as np
import onnx
import pytest
import reference
import torch
from affine_cases import CASES, DTYPES, ISAS, isa, same, sample
from onnx.reference import ReferenceEvaluator

ops = torch.ops.torchqat
RANGES = {torch.int8: (-128, 127), torch.uint8: (0, 255), torch.int16: (-32768, 32767), torch.int32: (-(2**20), 2**20)}


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("code_dtype", RANGES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_reference(name, code_dtype, dtype):
    low, high = RANGES[code_dtype]
    for shape, block_size in CASES:
        x = sample(shape, dtype)
        scale, zero_point = reference.choose_qparams(x, block_size, low, high, False)
        codes = reference.quantize(x, scale, zero_point, block_size, low, high, code_dtype)
        values = reference.dequantize(codes, scale, zero_point, block_size, dtype)
        with isa(name):
            assert same(ops.quantize(x, scale, zero_point, block_size, low, high, code_dtype), codes), (shape, block_size)
            assert same(ops.dequantize(codes, scale, zero_point, block_size, dtype), values), (shape, block_size)


def test_nan_gets_the_zero_point_and_infinity_saturates():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e38, -1e38])
    codes = ops.quantize(x, torch.tensor(0.1), torch.tensor(7), [], 0, 200, torch.uint8)
    assert codes.tolist() == [7, 200, 0, 200, 0]


def test_dequantised_codes_are_the_fake_quantised_values():
    x = sample((33, 70), special=False)
    for low, high in ((-8, 7), (0, 255)):
        scale, zero_point = ops.choose_qparams(x, [1, 32], low, high, False)
        codes = ops.quantize(x, scale, zero_point, [1, 32], low, high, torch.int16)
        assert same(ops.dequantize(codes, scale, zero_point, [1, 32], torch.float32), ops.fake_quantize(x, scale, zero_point, [1, 32], low, high))


def onnx_run(op, attributes, **inputs):
    """One node through ONNX's reference implementation; a value may be (array, onnx element type)."""
    tensors = {k: v if isinstance(v, tuple) else (v, onnx.helper.np_dtype_to_tensor_dtype(v.dtype)) for k, v in inputs.items()}
    graph_inputs = [onnx.helper.make_tensor_value_info(k, t, v.shape) for k, (v, t) in tensors.items()]
    node = onnx.helper.make_node(op, list(tensors), ["y"], **attributes)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UNDEFINED, None)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", graph_inputs, [output]), opset_imports=[onnx.helper.make_opsetid("", 21)])
    return ReferenceEvaluator(model).run(None, {k: v for k, (v, _) in tensors.items()})[0]


# dtype, low, high, numpy dtype of the zero point, block_size, axis, ONNX block_size
ONNX_CASES = [
    (torch.int8, -128, 127, np.int8, [], None, 0),
    (torch.uint8, 0, 255, np.uint8, [], None, 0),
    (torch.int16, -32768, 32767, np.int16, [], None, 0),
    (torch.int8, -128, 127, np.int8, [1, -1], 0, 0),
    (torch.uint8, 0, 255, np.uint8, [-1, 1], 1, 0),
    (torch.int8, -128, 127, np.int8, [1, 4], 1, 4),
    (torch.uint8, 0, 255, np.uint8, [3, 1], 0, 3),
    (torch.int8, -8, 7, ml_dtypes.int4, [], None, 0),
    (torch.uint8, 0, 15, ml_dtypes.uint4, [1, -1], 0, 0),
    (torch.int8, -8, 7, ml_dtypes.int4, [1, 4], 1, 4),
    (torch.uint8, 0, 15, ml_dtypes.uint4, [1, 4], 1, 4),
]


@pytest.mark.parametrize("code_dtype, low, high, onnx_dtype, block_size, axis, onnx_block", ONNX_CASES)
def test_equals_onnx(code_dtype, low, high, onnx_dtype, block_size, axis, onnx_block):
    x = sample((6, 12), special=False)
    x[0, 0] = 1e4
    x[1, 1] = -1e4
    scale, zero_point = ops.choose_qparams(x.clamp(-2, 2), block_size, low, high, False)
    attributes = {} if axis is None else {"axis": axis}
    if onnx_block:
        attributes["block_size"] = onnx_block
    shape = () if axis is None else (scale.shape if onnx_block else (-1,))
    s = scale.numpy().reshape(shape)
    z = zero_point.numpy().astype(np.int32).astype(onnx_dtype).reshape(shape)
    codes = ops.quantize(x, scale, zero_point, block_size, low, high, code_dtype)
    want = onnx_run("QuantizeLinear", attributes, x=x.numpy(), s=s, z=z)
    assert np.array_equal(codes.numpy().astype(np.int64), np.asarray(want).astype(np.int64))
    values = ops.dequantize(codes, scale, zero_point, block_size, torch.float32)
    want = onnx_run("DequantizeLinear", attributes, x=codes.numpy().astype(np.int32).astype(onnx_dtype), s=s, z=z)
    assert np.array_equal(values.numpy(), want)


X, S = torch.zeros(4, 8), torch.ones(4, 1)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "dtype must be int8, uint8, int16 or int32, got float32", (X, S, None, [1, -1], 0, 7, torch.float32)),
        (TypeError, "dtype must be int8, uint8, int16 or int32, got int64", (X, S, None, [1, -1], 0, 7, torch.int64)),
        (ValueError, "quant_min and quant_max must fit int8, got 0 and 255", (X, S, None, [1, -1], 0, 255, torch.int8)),
        (ValueError, "quant_min and quant_max must fit uint8, got -1 and 7", (X, S, None, [1, -1], -1, 7, torch.uint8)),
        (ValueError, "scale must be finite and > 0", (X, S * 0, None, [1, -1], 0, 7, torch.uint8)),
        (ValueError, r"scale must have shape \[4, 1\]", (X, torch.ones(3), None, [1, -1], 0, 7, torch.uint8)),
        (TypeError, "input must be float32", (X.long(), S, None, [1, -1], 0, 7, torch.uint8)),
    ],
)
def test_bad_arguments_of_quantize(error, message, arguments):
    with pytest.raises(error, match="quantize: " + message):
        ops.quantize(*arguments)


@pytest.mark.parametrize(
    "error, message, arguments",
    [
        (TypeError, "codes must be int8, uint8, int16 or int32, got float32", (X, S, None, [1, -1], torch.float32)),
        (TypeError, "dtype must be float32, float64, bfloat16 or float16, got int32", (X.char(), S, None, [1, -1], torch.int32)),
        (ValueError, r"scale must have shape \[4, 1\]", (X.char(), torch.ones(3), None, [1, -1], torch.float32)),
        (ValueError, "scale must be finite and > 0", (X.char(), -S, None, [1, -1], torch.float32)),
        (TypeError, "zero_point must be an integer tensor", (X.char(), S, S, [1, -1], torch.float32)),
    ],
)
def test_bad_arguments_of_dequantize(error, message, arguments):
    with pytest.raises(error, match="dequantize: " + message):
        ops.dequantize(*arguments)


def test_there_is_no_gradient():
    x = torch.randn(4, requires_grad=True)
    s = torch.tensor(0.1, requires_grad=True)
    codes = ops.quantize(x, s, None, [], -8, 7, torch.int8)
    assert not ops.dequantize(codes, s, None, [], torch.float32).requires_grad


def round_trip(x, scale, zero_point):
    codes = ops.quantize(x, scale, zero_point, [1, 16], 0, 255, torch.uint8)
    return codes, ops.dequantize(codes, scale, zero_point, [1, 16], x.dtype)


def test_opcheck_compile_and_script():
    x = sample((6, 40), special=False)
    scale, zero_point = ops.choose_qparams(x, [1, 16], 0, 255, False)
    codes = ops.quantize(x, scale, zero_point, [1, 16], 0, 255, torch.uint8)
    torch.library.opcheck(ops.quantize.default, (x, scale, zero_point, [1, 16], 0, 255, torch.uint8))
    torch.library.opcheck(ops.dequantize.default, (codes, scale, zero_point, [1, 16], torch.bfloat16))
    compiled, scripted = torch.compile(round_trip, fullgraph=True, dynamic=True), torch.jit.script(round_trip)
    for rows in (6, 9):
        x = sample((rows, 40), special=False)
        scale, zero_point = ops.choose_qparams(x, [1, 16], 0, 255, False)
        want = round_trip(x, scale, zero_point)
        for fn in (compiled, scripted):
            assert all(same(a, b) for a, b in zip(fn(x, scale, zero_point), want, strict=True))
