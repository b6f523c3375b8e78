"""What torch.onnx is told of operators that it cannot translate, or translates for one size only."""

import onnx
import torch
from onnxscript import opset20 as op
from onnxscript.values import Op, Opset


def translation_table(functions, domain):
    """Return the custom translation table of ``torch.onnx.export``.

    Args:
        functions: operator of PyTorch -> name of the ONNX function that the file contains.
        domain: of those functions.
    """
    opset = Opset(domain, 1)
    table = {operator: _call(opset, operator, name) for operator, name in functions.items()}
    table[torch.ops.aten.softplus.default] = softplus(_function(opset, 'Softplus', ['x']))
    table[torch.ops.aten._adaptive_avg_pool2d.default] = adaptive_average_pool
    table[torch.ops.aten.adaptive_avg_pool2d.default] = adaptive_average_pool
    return table


def _call(opset, operator, name):
    return _function(opset, name, [argument.name for argument in operator._schema.arguments])


def _function(opset, name, inputs):
    schema = onnx.defs.OpSchema(
        name,
        opset.domain,
        opset.version,
        inputs=[onnx.defs.OpSchema.FormalParameter(argument, f'T{i}') for i, argument in enumerate(inputs)],
        outputs=[onnx.defs.OpSchema.FormalParameter('result', 'R')],
        type_constraints=[
            *((f'T{i}', ['tensor(float)', 'tensor(int64)'], '') for i in range(len(inputs))),
            ('R', ['tensor(float)', 'tensor(int64)'], ''),
        ],
    )
    function = Op(opset, name, schema)
    return lambda *args: function(*args)


def softplus(function):
    """Return the translation of softplus, to a function of the file where the arguments are the usual ones."""

    def translate(x, beta=1.0, threshold=20.0):
        if (beta, threshold) == (1, 20):
            return function(x)
        scaled = op.Mul(x, op.CastLike(op.Constant(value_float=float(beta)), x))
        smooth = op.Div(op.Softplus(scaled), op.CastLike(op.Constant(value_float=float(beta)), x))
        return op.Where(op.Greater(scaled, op.CastLike(op.Constant(value_float=float(threshold)), x)), x, smooth)

    return translate


def adaptive_average_pool(x, output_size):
    """Average pooling to a fixed size of maps of any size, as two products with matrices of weights.

    Row i of the result is the mean of the rows from floor(i * H / out) to ceil((i + 1) * H / out), as in PyTorch.
    """
    rows = _weights(op.Shape(x, start=2, end=3), output_size[0])
    columns = _weights(op.Shape(x, start=3, end=4), output_size[1])
    return op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))


def _weights(size, count):
    """Return the weight of each of ``size`` places for each of ``count`` results, (count, size)."""
    i = op.Constant(value_ints=list(range(count)))
    ends = op.Constant(value_ints=list(range(1, count + 1)))
    n = op.Constant(value_ints=[count])
    first = op.Div(op.Mul(i, size), n)
    # rounded up
    last = op.Div(op.Sub(op.Add(op.Mul(ends, size), n), op.Constant(value_ints=[1])), n)
    places = op.Range(op.Constant(value_int=0), op.Squeeze(size), op.Constant(value_int=1))
    column = op.Constant(value_ints=[1])
    first, last = op.Unsqueeze(first, column), op.Unsqueeze(last, column)
    inside = op.And(op.GreaterOrEqual(places, first), op.Less(places, last))
    return op.Div(op.Cast(inside, to=1), op.Cast(op.Sub(last, first), to=1))
