"""QuantizeLinear and DequantizeLinear of the ONNX reference in the types that test_quantize.py does not go through: 16 and 32
bits, 2 bits and the float grids, per tensor, per axis and blocked.
"""

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from affine_cases import sample
from onnx.reference import ReferenceEvaluator

ops = torch.ops.torchqat


def run(op, attributes, element, **inputs):
    """One node on (array, ONNX element type); the newest operator set the package knows, output of type element."""
    graph_inputs = [onnx.helper.make_tensor_value_info(k, t, v.shape) for k, (v, t) in inputs.items()]
    node = onnx.helper.make_node(op, list(inputs), ["y"], **attributes)
    output = onnx.helper.make_tensor_value_info("y", element, None)
    opset = onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version())
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", graph_inputs, [output]), opset_imports=[opset])
    return np.asarray(ReferenceEvaluator(model).run(None, {k: v for k, (v, _) in inputs.items()})[0])


T = onnx.TensorProto
BLOCKS = [([], None, 0), ([1, -1], 0, 0), ([-1, 1], 1, 0), ([1, 4], 1, 4), ([3, 1], 0, 3)]
INTEGERS = [
    (torch.int16, -32768, 32767, np.int16, T.INT16),
    (torch.int32, 0, 65535, np.uint16, T.UINT16),
    (torch.int8, -8, 7, ml_dtypes.int4, T.INT4),
    (torch.uint8, 0, 15, ml_dtypes.uint4, T.UINT4),
    (torch.int8, -2, 1, ml_dtypes.int2, "INT2"),
    (torch.uint8, 0, 3, ml_dtypes.uint2, "UINT2"),
]


def parts(x, block_size, axis, onnx_block, low, high):
    scale, zero_point = ops.choose_qparams(x.clamp(-2, 2), block_size, low, high, False)
    attributes = {} if axis is None else {"axis": axis}
    if onnx_block:
        attributes["block_size"] = onnx_block
    shape = () if axis is None else (tuple(scale.shape) if onnx_block else (-1,))
    return scale, zero_point, attributes, shape


@pytest.mark.parametrize("block_size, axis, onnx_block", BLOCKS)
@pytest.mark.parametrize("code_dtype, low, high, kind, element", INTEGERS)
def test_integer_types(code_dtype, low, high, kind, element, block_size, axis, onnx_block):
    if isinstance(element, str):
        if not hasattr(T, element):
            pytest.skip(f"onnx {onnx.__version__} has no {element}")
        element = getattr(T, element)
    x = sample((6, 12), special=False)
    x[0, 0], x[1, 1] = 1e4, -1e4
    scale, zero_point, attributes, shape = parts(x, block_size, axis, onnx_block, low, high)
    s = (scale.numpy().reshape(shape), T.FLOAT)
    z = (zero_point.numpy().astype(np.int32).astype(kind).reshape(shape), element)
    codes = ops.quantize(x, scale, zero_point, block_size, low, high, code_dtype)
    want = run("QuantizeLinear", attributes, element, x=(x.numpy(), T.FLOAT), s=s, z=z)
    assert np.array_equal(codes.numpy().astype(np.int64), want.astype(np.int64))
    values = ops.dequantize(codes, scale, zero_point, block_size, torch.float32)
    got = run("DequantizeLinear", attributes, T.FLOAT, x=(codes.numpy().astype(np.int32).astype(kind), element), s=s, z=z)
    assert np.array_equal(values.numpy(), got)


@pytest.mark.parametrize("block_size, axis, onnx_block", BLOCKS)
def test_dequantising_32_bits(block_size, axis, onnx_block):
    codes = torch.randint(-(2**24), 2**24, (6, 12), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    scale, _, attributes, shape = parts(sample((6, 12), special=False), block_size, axis, onnx_block, -8, 7)
    values = ops.dequantize(codes, scale, None, block_size, torch.float32)
    got = run("DequantizeLinear", attributes, T.FLOAT, x=(codes.numpy(), T.INT32), s=(scale.numpy().reshape(shape), T.FLOAT))
    assert np.array_equal(values.numpy(), got)


FLOATS = [
    ("e4m3fn", ml_dtypes.float8_e4m3fn, "FLOAT8E4M3FN"),
    ("e5m2", ml_dtypes.float8_e5m2, "FLOAT8E5M2"),
    ("e2m1", ml_dtypes.float4_e2m1fn, "FLOAT4E2M1"),
]


@pytest.mark.parametrize("block_size, axis, onnx_block", BLOCKS)
@pytest.mark.parametrize("format, kind, element", FLOATS)
def test_float_grids(format, kind, element, block_size, axis, onnx_block):
    element = getattr(T, element)
    x = sample((6, 12), special=False)
    x[0, 0], x[1, 1] = 1e6, -1e6
    scale, _, attributes, shape = parts(x, block_size, axis, onnx_block, -8, 7)
    s = (scale.numpy().reshape(shape), T.FLOAT)
    z = (np.zeros(s[0].shape, kind), element)
    codes = run("QuantizeLinear", attributes, element, x=(x.numpy(), T.FLOAT), s=s, z=z).astype(kind)
    want = run("DequantizeLinear", attributes, T.FLOAT, x=(codes, element), s=s, z=z)
    got = ops.fake_quantize_float(x, scale, block_size, format)
    assert np.array_equal(got.numpy(), want)
