"""A traced network as an ONNX model."""

import json
import re

import torch

from ..version import __version__

#: Where the file says which of its values the check looks at, as JSON.
CHECKED_VALUES = 'mmdefmamba_checked_values'
#: Operators that become functions of the file (:mod:`.onnx_functions`): operator -> name of the function.
FUNCTIONS = {
    torch.ops.mmdefmamba.selective_scan.default: 'SelectiveScan',
    torch.ops.mmdefmamba.argsort.default: 'ArgSort',
    torch.ops.mmdefmamba.sample_points.default: 'SamplePoints',
}


def import_onnx():
    """Return the modules onnx and onnxscript.

    Raises:
        ImportError: one of them is not installed.
    """
    try:
        import onnx
        import onnx.inliner
        import onnxscript
    except ImportError as error:
        raise ImportError(f"{error}. The export needs more packages: pip install 'mmdefmamba[export]'") from error
    return onnx, onnxscript


def to_onnx(program, names, metadata=None, inline=False):
    """Translate a traced network into an ONNX model.

    Args:
        program: from :func:`.graph.trace`.
        names: of the results.
        metadata: name -> text, written into the file.
        inline: whether the functions are replaced by their operators, for runtimes that do not know functions.

    Returns:
        An onnx.ModelProto, checked by onnx.checker. Its input is ``images``.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: an operator of the network has no translation.
    """
    onnx, _ = import_onnx()
    from .onnx_functions import DOMAIN, OPSET, functions
    from .translations import translation_table

    # made of the traced sizes before they are renamed
    sizes = [node for node in program.graph.nodes if node.op == 'placeholder'][-1].meta['val'].shape
    renamed = {str(sizes[axis]): name for axis, name in ((0, 'batch'), (2, 'height'), (3, 'width'))}
    try:
        model = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            optimize=True,
            input_names=['images'],
            output_names=list(names),
            custom_translation_table=translation_table(FUNCTIONS, DOMAIN),
        ).model_proto
    except torch.onnx.OnnxExporterError as error:
        raise ValueError(
            f'this network has an operator without a translation to ONNX:\n{_cause(error)}\nExport only its backbone '
            '(--part backbone), or take --format pt2'
        ) from error
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    model.functions.extend(function for function in functions() if function.name in used)
    if used and DOMAIN not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    # a runtime finds the shapes of values between input and results itself, and trusts those of the file
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r'\w+', lambda match: renamed.get(match[0], match[0]), dim.dim_param)
    model.producer_name, model.producer_version = 'mmdefmamba', __version__
    entries = {**(metadata or {}), CHECKED_VALUES: json.dumps(_checked_values(model, DOMAIN))}
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    if inline:
        model = onnx.inliner.inline_local_functions(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return f'{error}'.strip().splitlines()[0] if f'{error}'.strip() else type(error).__name__


def _checked_values(model, domain):
    """Return which value of the graph is the order of a scan and the result of a block: two dicts, module -> value."""
    orders, blocks = {}, {}
    for node in model.graph.node:
        scopes = [prop.value for prop in node.metadata_props if prop.key == 'pkg.torch.onnx.name_scopes']
        scopes = [scope for scope in json.loads(scopes[0].replace("'", '"')) if scope] if scopes else []
        scan = next((scope for scope in scopes if re.search(r'\.scans\.\d+$', scope)), None)
        block = next((scope for scope in scopes if scope.endswith('.dssm')), None)
        if node.domain == domain and node.op_type == 'ArgSort' and scan:
            orders[scan] = node.output[0]
        if block:
            blocks[block] = node.output[0]  # the last one stays
    return {'orders': orders, 'blocks': blocks}
