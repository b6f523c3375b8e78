"""The operators of an exported graph as functions of standard ONNX operators. A file contains those that it uses."""

from onnx import TensorProto, helper

DOMAIN = 'mmdefmamba'
OPSET = 20


def functions():
    """Return the functions, a list of onnx.FunctionProto: ``SelectiveScan`` and ``ArgSort``."""
    return [_selective_scan(), _argsort()]


def _function(name, inputs, outputs, nodes):
    return helper.make_function(DOMAIN, name, inputs, outputs, nodes, [helper.make_opsetid('', OPSET)])


def _integers(name, values):
    return helper.make_node('Constant', [], [name], value_ints=values)


def _selective_scan():
    """SelectiveScan(u, delta, A, B, C) -> y, with the shapes of :func:`.sequence_scan.exported.scan_sequences`."""
    node = helper.make_node

    def value(name):  # without a shape: onnxruntime would take buffers of equally named sizes for equal
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    step = helper.make_graph(
        [
            node('Mul', ['d', 'a'], ['exponent']),
            node('Exp', ['exponent'], ['decay']),
            node('Mul', ['decay', 'h'], ['kept']),
            node('Mul', ['x', 'b'], ['added']),
            node('Add', ['kept', 'added'], ['h_next']),
            node('MatMul', ['c', 'h_next'], ['out']),
            node('Identity', ['a'], ['a_next']),
        ],
        'step',
        [value(name) for name in ('h', 'a', 'd', 'x', 'b', 'c')],
        [value(name) for name in ('h_next', 'a_next', 'out')],
    )
    nodes = [_integers('row', [-2]), _integers('column', [-1]), node('Mul', ['delta', 'u'], ['delta_u'])]
    for source, axis in (('delta', 'row'), ('delta_u', 'row'), ('B', 'column'), ('C', 'row')):
        nodes.append(node('Transpose', [source], [f'{source}_first'], perm=[2, 0, 1, 3]))
        nodes.append(node('Unsqueeze', [f'{source}_first', axis], [f'{source}_t']))
    nodes += [
        node('Shape', ['u'], ['maps'], start=0, end=2),
        node('Shape', ['A'], ['of_state'], start=1, end=3),
        node('Concat', ['maps', 'of_state'], ['state_shape'], axis=0),
        node('ConstantOfShape', ['state_shape'], ['start']),
        node(
            'Scan',
            ['start', 'A', 'delta_t', 'delta_u_t', 'B_t', 'C_t'],
            ['last', 'same', 'rows'],
            num_scan_inputs=4,
            body=step,
        ),
        node('Squeeze', ['rows', 'row'], ['tokens']),
        node('Transpose', ['tokens'], ['y'], perm=[1, 2, 0, 3]),
    ]
    return _function('SelectiveScan', ['u', 'delta', 'A', 'B', 'C'], ['y'], nodes)


def _argsort():
    """ArgSort(keys) -> order: ascending. TopK of ONNX is stable by its definition, torch.topk is not."""
    nodes = [
        helper.make_node('Shape', ['keys'], ['count'], start=-1),
        helper.make_node('TopK', ['keys', 'count'], ['values', 'order'], axis=-1, largest=0, sorted=1),
    ]
    return _function('ArgSort', ['keys'], ['order'], nodes)
