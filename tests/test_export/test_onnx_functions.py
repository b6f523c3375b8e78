"""The functions in an exported file, run by onnxruntime alone, against float64 loops and PyTorch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

onnx = pytest.importorskip('onnx')
inliner = pytest.importorskip('onnx.inliner')
onnxruntime = pytest.importorskip('onnxruntime')

from mmdefmamba.export.onnx_functions import DOMAIN, OPSET, functions  # noqa: E402

TYPES = {np.dtype('float32'): onnx.TensorProto.FLOAT, np.dtype('int64'): onnx.TensorProto.INT64}


def model_of(name, inputs, output_rank, output_type=onnx.TensorProto.FLOAT, inline=False):
    """Return a checked ONNX model that calls one function; no size is known in advance."""
    function = {function.name: function for function in functions()}[name]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(name, list(function.input), ['result'], domain=DOMAIN)],
        'graph',
        [value(key, TYPES[inputs[key].dtype], [None] * inputs[key].ndim) for key in function.input],
        [value('result', output_type, [None] * output_rank)],
    )
    opsets = [onnx.helper.make_opsetid('', OPSET), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return inliner.inline_local_functions(model) if inline else model


def session(model, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])


def scan_inputs(batch, scans, length, channels, states, seed=0):
    random = np.random.default_rng(seed)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32)

    return dict(
        u=normal(batch, scans, length, channels),
        delta=np.log1p(np.exp(normal(batch, scans, length, channels) - 2)),
        A=-np.exp(normal(scans, states, channels)),
        B=normal(batch, scans, length, states),
        C=normal(batch, scans, length, states),
    )


def scan_in_float64(u, delta, A, B, C):
    u, delta, A, B, C = (x.astype(np.float64) for x in (u, delta, A, B, C))
    state, y = np.zeros((len(u), *A.shape)), np.empty(u.shape)
    for t in range(u.shape[2]):
        new = (delta * u)[:, :, t, None] * B[:, :, t, :, None]
        state = np.exp(delta[:, :, t, None] * A) * state + new
        y[:, :, t] = (C[:, :, t, :, None] * state).sum(2)
    return y


# (batch, scans, length, channels, states); 7 tokens are one step, and equal sizes must not be taken for one
SHAPES = [
    *((1, 3, 49, 48, 16), (1, 3, 784, 12, 16), (4, 3, 196, 24, 16), (1, 1, 1, 1, 1), (2, 3, 1, 5, 4), (1, 3, 6, 8, 16)),
    *((3, 2, 8, 9, 2), (7, 7, 7, 7, 7), (2, 2, 2, 2, 2), (3, 3, 3, 3, 3), (16, 3, 16, 16, 16), (2, 1, 13, 1, 16)),
]


@pytest.mark.parametrize('threads', [1, 2])
def test_selective_scan_computes_the_recurrence_at_every_shape(threads):
    run = session(model_of('SelectiveScan', scan_inputs(1, 1, 1, 1, 1), 4), threads)
    for shape in SHAPES:
        inputs = scan_inputs(*shape)
        expected = scan_in_float64(**inputs)
        [y] = run.run(None, inputs)
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, atol=2e-6 * max(1, np.abs(expected).max()), rtol=0, err_msg=str(shape))
        # the state matters: without it the results would differ
        alone = (inputs['C'] * inputs['B']).sum(-1, keepdims=True) * inputs['delta'] * inputs['u']
        assert shape[2] == 1 or np.abs(y - alone).max() > 0.05 * np.abs(expected).max()


def test_selective_scan_is_finite_where_decays_underflow_and_where_nothing_decays():
    inputs = scan_inputs(2, 3, 500, 4, 16)
    run = session(model_of('SelectiveScan', inputs, 4))
    for scale_of_delta, scale_of_A in ((1e4, 1), (1, 1e6), (1e-6, 1), (1, 1e-30), (1, 0)):
        scaled = {**inputs, 'delta': inputs['delta'] * scale_of_delta, 'A': inputs['A'] * scale_of_A}
        scaled = {name: x.astype(np.float32) for name, x in scaled.items()}
        expected = scan_in_float64(**scaled)
        [y] = run.run(None, scaled)
        np.testing.assert_allclose(y, expected, atol=5e-6 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize('dtype', [np.float32, np.int64])
def test_arg_sort_is_ascending_and_stable(dtype):
    keys = np.random.default_rng(0).integers(0, 20, (3, 200)).astype(dtype)
    [order] = session(model_of('ArgSort', dict(keys=keys), 2, onnx.TensorProto.INT64)).run(None, dict(keys=keys))
    np.testing.assert_array_equal(order, np.argsort(keys, axis=-1, kind='stable'))


def test_softplus_keeps_the_digits_of_small_time_steps():
    x = np.concatenate([np.linspace(-40, 40, 4001), [-1e30, -104, 0, 1e30]]).astype(np.float32)
    [y] = session(model_of('Softplus', dict(x=x), 1)).run(None, dict(x=x))
    np.testing.assert_allclose(y, np.logaddexp(0, x.astype(np.float64)), rtol=5e-7, atol=1e-38)
    # PyTorch's rule, the identity above 20, is the same number in float32
    np.testing.assert_allclose(y, F.softplus(torch.from_numpy(x)), rtol=5e-7, atol=1e-38)


def test_sample_points_reads_as_grid_sample_inside_outside_and_on_the_edge():
    random, run = np.random.default_rng(0), None
    for (batch, channels, *size), points in (((2, 5, 4, 7), (3, 2)), ((3, 3, 3, 3), (3, 3)), ((1, 4, 1, 9), (2, 5))):
        x = random.standard_normal((batch, channels, *size)).astype(np.float32)
        grid = random.uniform(-1.7, 1.7, (batch, *points, 2)).astype(np.float32)
        grid[0, 0] = [[-1, 1], [1, -1], [1, 1]][: points[1]] if points[1] < 4 else 1
        run = run or session(model_of('SamplePoints', dict(x=x, grid=grid), 4))
        [y] = run.run(None, dict(x=x, grid=grid))
        expected = F.grid_sample(torch.from_numpy(x), torch.from_numpy(grid), align_corners=True)
        np.testing.assert_allclose(y, expected, atol=5e-7)


def test_functions_use_standard_operators_alone_and_their_bodies_capture_nothing():
    for function in functions():
        assert [(opset.domain, opset.version) for opset in function.opset_import] == [('', OPSET)]
        for node in function.node:
            assert node.domain == '' and onnx.defs.has(node.op_type, '')
            for body in [attribute.g for attribute in node.attribute if attribute.HasField('g')]:
                known = {value.name for value in body.input}
                assert all(not value.type.tensor_type.HasField('shape') for value in (*body.input, *body.output))
                for inner in body.node:
                    assert onnx.defs.has(inner.op_type, '') and set(inner.input) <= known
                    known |= set(inner.output)


def test_openvino_computes_the_scan_of_an_inlined_file():
    openvino = pytest.importorskip('openvino')
    inputs = scan_inputs(2, 3, 35, 12, 16)
    model = model_of('SelectiveScan', inputs, 4, inline=True)
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}
    )
    for length in (35, 1, 8):
        inputs = scan_inputs(2, 3, length, 12, 16)
        y = compiled([inputs[name] for name in ('u', 'delta', 'A', 'B', 'C')])[0]
        np.testing.assert_allclose(y, scan_in_float64(**inputs), atol=5e-6)
