"""The functions that an exported ONNX file defines: operators of the network as standard ONNX operators.

The file holds their definitions, so a runtime needs no library for them. They are written in ONNX's text format.
"""

import onnx.parser

DOMAIN = 'mmdefmamba'
OPSET = 20
# Tokens that one step of the selective scan takes. A step costs the runtime several microseconds beside its numbers.
# Measured with benchmarks/onnx_files.py: 5 to 10 are equal, and 7 divides the maps of a 224 x 224 image.
TOKENS = 7


def functions():
    """Return the functions, a list of onnx.FunctionProto."""
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>'
    texts = (_selective_scan(TOKENS), ARG_SORT, SOFTPLUS, _sample_points())
    return [onnx.parser.parse_function(header + text) for text in texts]


#: ArgSort(keys) -> order, int64, ascending along the last axis. TopK of ONNX is stable by its definition.
ARG_SORT = """
ArgSort (keys) => (order)
{
    count = Shape <start = -1> (keys)
    values, order = TopK <axis = -1, largest = 0, sorted = 1> (keys, count)
}
"""
#: Softplus(x) -> y = max(x, 0) + log(1 + z), z = exp(-|x|). What 1 + z loses by rounding is added again in first order,
#: so that small time steps keep all their digits. It takes half the time of onnxruntime's own operator.
SOFTPLUS = """
Softplus (x) => (y)
{
    one = Constant <value_float = 1.0> ()
    size = Abs (x)
    power = Neg (size)
    z = Exp (power)
    rounded = Add (z, one)
    log_rounded = Log (rounded)
    kept = Sub (rounded, one)
    lost = Sub (z, kept)
    correction = Div (lost, rounded)
    log_exact = Add (log_rounded, correction)
    positive = Relu (x)
    y = Add (positive, log_exact)
}
"""


def _selective_scan(tokens):
    """Return the text of SelectiveScan(u, delta, A, B, C) -> y, one step of which takes ``tokens`` tokens.

    u and delta (after bias and softplus) are (b, K, L, C), A is (K, N, C), B and C are (b, K, L, N). The length is
    filled up with tokens of delta = 0, which keep the state as it is. A is carried as a state, because OpenVINO takes
    no value from outside the body of a Scan. Values in the body have no shapes: onnxruntime takes equal names for equal
    sizes.
    """
    split = {name: [f'{name}_{i}' for i in range(tokens)] for name in ('d', 'x', 'B')}
    names = [name for group in split.values() for name in group]
    squeezed = ''.join(f'    {name} = Squeeze ({name}_, axis_0)\n' for name in names)
    typed = ', '.join(f'float[] {name}' for name in names)
    step = ''.join(
        f"""
        log_decay_{i} = Mul (d_{i}, A_in)
        decay_{i} = Exp (log_decay_{i})
        new_{i} = Mul (x_{i}, B_{i})
        kept_{i} = Mul (decay_{i}, h_{i})
        h_{i + 1} = Add (kept_{i}, new_{i})"""
        for i in range(tokens)
    )
    return f"""
SelectiveScan (u, delta, A, B, C) => (y)
{{
    axis_0 = Constant <value_ints = [0]> ()
    axis_2 = Constant <value_ints = [2]> ()
    one = Constant <value_ints = [1]> ()
    rest = Constant <value_ints = [-1]> ()
    tokens = Constant <value_ints = [{tokens}]> ()
    b = Shape <start = 0, end = 1> (u)
    k = Shape <start = 1, end = 2> (u)
    length = Shape <start = 2, end = 3> (u)
    channels = Shape <start = 3, end = 4> (u)
    states = Shape <start = 1, end = 2> (A)

    minus_length = Neg (length)
    missing = Mod (minus_length, tokens)
    pads = Concat <axis = 0> (axis_0, missing)
    delta_u = Mul (delta, u)
    delta_p = Pad (delta, pads, , axis_2)
    delta_u_p = Pad (delta_u, pads, , axis_2)
    B_p = Pad (B, pads, , axis_2)
    C_p = Pad (C, pads, , axis_2)

    row = Concat <axis = 0> (b, k, rest, tokens, one, channels)
    row_of_states = Concat <axis = 0> (b, k, rest, tokens, one, states)
    column_of_states = Concat <axis = 0> (b, k, rest, tokens, states, one)
    delta_r = Reshape (delta_p, row)
    delta_u_r = Reshape (delta_u_p, row)
    B_r = Reshape (B_p, column_of_states)
    C_r = Reshape (C_p, row_of_states)
    delta_t = Transpose <perm = [3, 2, 0, 1, 4, 5]> (delta_r)
    delta_u_t = Transpose <perm = [3, 2, 0, 1, 4, 5]> (delta_u_r)
    B_t = Transpose <perm = [3, 2, 0, 1, 4, 5]> (B_r)
    C_t = Transpose <perm = [2, 3, 0, 1, 4, 5]> (C_r)
    {', '.join(f'{name}_' for name in split['d'])} = Split <axis = 0, num_outputs = {tokens}> (delta_t)
    {', '.join(f'{name}_' for name in split['x'])} = Split <axis = 0, num_outputs = {tokens}> (delta_u_t)
    {', '.join(f'{name}_' for name in split['B'])} = Split <axis = 0, num_outputs = {tokens}> (B_t)
{squeezed}
    steps_first = Concat <axis = 0> (axis_0, rest, k, one, states)
    C_steps = Reshape (C_t, steps_first)
    shape_of_A = Shape (A)
    shape_of_h = Concat <axis = 0> (b, shape_of_A)
    h = ConstantOfShape (shape_of_h)
    h_last, A_last, y_steps = Scan <num_scan_inputs = {3 * tokens + 1}, body = step (
        float[] h_0, float[] A_in, {typed}, float[] C_in
    ) => (float[] h_{tokens}, float[] A_out, float[] y_out)
    {{{step}
        A_out = Identity (A_in)
        h_all = Concat <axis = 0> ({', '.join(f'h_{i + 1}' for i in range(tokens))})
        y_out = MatMul (C_in, h_all)
    }}> (h, A, {', '.join(names)}, C_steps)

    y_shape = Concat <axis = 0> (axis_0, tokens, b, k, channels)
    y_r = Reshape (y_steps, y_shape)
    y_t = Transpose <perm = [2, 3, 0, 1, 4]> (y_r)
    sequence = Concat <axis = 0> (b, k, rest, channels)
    y_p = Reshape (y_t, sequence)
    y = Slice (y_p, axis_0, length, axis_2)
}}
"""


def _sample_points():
    """Return the text of SamplePoints(x, grid) -> y: grid_sample, bilinear, zeros outside, corners aligned.

    x is (b, C, H, W), grid is (b, h, w, 2) with (x, y) in [-1, 1], y is (b, C, h, w). Each point adds four rows of
    channels, which are read where they lie. A weight outside the map is 0, and its row is the first one.
    """
    axes = ''.join(
        f"""
    which_{a} = Constant <value_int = {number}> ()
    at_{a} = Gather <axis = 3> (grid, which_{a})
    last_{a} = Sub (side_{a}, one)
    last_{a}_f = CastLike (last_{a}, grid)
    shifted_{a} = Add (at_{a}, one_f)
    share_{a} = Div (shifted_{a}, two_f)
    place_{a} = Mul (share_{a}, last_{a}_f)
    low_{a} = Floor (place_{a})
    high_{a} = Add (low_{a}, one_f)
    weight_low_{a} = Sub (high_{a}, place_{a})
    weight_high_{a} = Sub (place_{a}, low_{a})"""
        + ''.join(
            f"""
    begun_{end}_{a} = GreaterOrEqual ({end}_{a}, zero_f)
    ended_{end}_{a} = LessOrEqual ({end}_{a}, last_{a}_f)
    inside_{end}_{a} = And (begun_{end}_{a}, ended_{end}_{a})
    used_{end}_{a} = Where (inside_{end}_{a}, weight_{end}_{a}, zero_f)
    pixel_{end}_{a} = Where (inside_{end}_{a}, {end}_{a}, zero_f)
    index_{end}_{a} = Cast <to = 7> (pixel_{end}_{a})"""
            for end in ('low', 'high')
        )
        for number, a in enumerate(('x', 'y'))
    )
    corners = ''.join(
        f"""
    line_{i} = Mul (index_{v}_y, side_x)
    column_{i} = Add (line_{i}, index_{h}_x)
    token_{i} = Add (column_{i}, first_token)
    read_{i} = Gather <axis = 0> (rows, token_{i})
    flat_weight_{i} = Mul (used_{v}_y, used_{h}_x)
    weight_{i} = Unsqueeze (flat_weight_{i}, rest)
    part_{i} = Mul (read_{i}, weight_{i})"""
        for i, (v, h) in enumerate([('low', 'low'), ('low', 'high'), ('high', 'low'), ('high', 'high')])
    )
    return f"""
SamplePoints (x, grid) => (y)
{{
    zero = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    one = Constant <value_ints = [1]> ()
    rest = Constant <value_ints = [-1]> ()
    zero_f = Constant <value_float = 0.0> ()
    one_f = Constant <value_float = 1.0> ()
    two_f = Constant <value_float = 2.0> ()
    channels = Shape <start = 1, end = 2> (x)
    side_y = Shape <start = 2, end = 3> (x)
    side_x = Shape <start = 3, end = 4> (x)
    batch = Shape <start = 0, end = 1> (x)
    images = Squeeze (batch)
    tokens = Mul (side_y, side_x)
    image = Range (zero, images, step)
    first_flat = Mul (image, tokens)
    column = Concat <axis = 0> (rest, one, one)
    first_token = Reshape (first_flat, column)
    last = Transpose <perm = [0, 2, 3, 1]> (x)
    row = Concat <axis = 0> (rest, channels)
    rows = Reshape (last, row)
{axes}
{corners}
    sum_1 = Add (part_0, part_1)
    sum_2 = Add (sum_1, part_2)
    sum_3 = Add (sum_2, part_3)
    y = Transpose <perm = [0, 3, 1, 2]> (sum_3)
}}
"""
