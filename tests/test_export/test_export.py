"""Exported files give what their network gives, and a file that does not is never left."""

import json
import subprocess
import sys

import pytest
import torch
from mmengine import Config
from torch._dynamo.testing import CompileCounterWithBackend

from mmdefmamba.cli.export import main
from mmdefmamba.export.export_model import WrongFileError, export_model
from mmdefmamba.export.graph import ExportedPart, exported_part, output_names, trace
from mmdefmamba.export.runners import OnnxFile
from mmdefmamba.export.verification import SIZES, verify
from mmdefmamba.models import DefMamba
from mmdefmamba.ops import use_backend
from mmdefmamba.ops.sequence_scan.reference import selective_scan_reference

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
# A few of each kind: of order, of content, learned. The sweep has all of them.
FEW = ('zigzag', 'quadtree', dict(type='local', window=3, reverse=True), 'deformable')
ANY_SIZE = (
    *(*FEW, 'raster', 'column_reverse', dict(type='atrous', stride=2, start=1)),
    dict(type='continuous', corner='bottom_left', transposed=True),
    *(dict(type='deformable', points=False, offset_bias=False), dict(type='deformable_fixed', offsets='zero')),
    dict(type='deformable', order=False, channel_attention=False),
)
CFG = Config(
    dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(
                type='DefMamba',
                arch=dict(embed_dims=(8,), depths=(1,)),
                formulation='released',
                scans=['deformable'],
                pretrain_img_size=16,
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=8),
            data_preprocessor=dict(mean=[120, 110, 100], std=[60, 55, 50], to_rgb=True),
        ),
        data_preprocessor=dict(mean=[120, 110, 100], std=[60, 55, 50], to_rgb=True),
    )
)


def small_backbone(lively, scans=('deformable',), formulation='paper', **kwargs):
    arch = dict(embed_dims=(8,), depths=(1,))
    model = DefMamba(arch, formulation, scans, pretrain_img_size=16, **kwargs)
    return ExportedPart(lively(model), part='backbone').eval()


def to_file(network, path, shape=None, batch=None):
    from mmdefmamba.export.onnx_file import to_onnx

    program = trace(network, shape, batch)
    onnx.save(to_onnx(program, output_names(network, program)), path)
    return path


@pytest.fixture(scope='module')
def classifier():
    from mmdefmamba import get_model

    from .conftest import make_lively

    torch.manual_seed(0)
    model = make_lively(get_model(CFG))
    model.dataset_meta['classes'] = ('a', 'b', 'c')
    return model


@pytest.fixture(scope='module')
def tool(classifier, tmp_path_factory):
    """Return ``run(out, *options)``: tools/export.py for the classifier; it returns the exit status."""
    folder = tmp_path_factory.mktemp('classifier')
    CFG.dump(folder / 'config.py')
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')))
    torch.save(dict(state_dict=classifier.state_dict(), meta=meta), folder / 'checkpoint.pth')
    paths = [str(folder / name) for name in ('config.py', 'checkpoint.pth')]
    return lambda out, *options: main([*paths, str(out), *options])


@pytest.fixture(scope='module')
def exported(classifier, tool, tmp_path_factory):
    """The classifier's network and its file, from the tool."""
    path = tmp_path_factory.mktemp('export') / 'classifier.onnx'
    assert tool(path, '--shape', '40', '56', '--with-preprocessing') == 0
    return ExportedPart(classifier, 'mmpretrain', preprocessing=True).eval(), path


def test_a_classifier_is_exported_for_any_size_and_says_what_it_is(exported):
    _, path = exported
    model = onnx.load(path)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ['images', 'logits']
    sides = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ['batch', 3, 'height', 'width']
    # no library is needed: each operator is a standard one or a function that the file has
    assert {opset.domain for opset in model.opset_import} <= {'', 'mmdefmamba'}
    assert {node.op_type for node in model.graph.node if node.domain} <= {f.name for f in model.functions}
    description = json.loads({entry.key: entry.value for entry in model.metadata_props}['mmdefmamba'])
    assert (description['mean'], description['std'], description['preprocessing']) == (
        [120, 110, 100],
        [60, 55, 50],
        True,
    )
    assert description['classes'] == ['a', 'b', 'c']
    assert [path.name] == [file.name for file in path.parent.iterdir()]


def test_raw_images_are_normalised_in_the_file(exported, classifier):
    _, path = exported
    raw = torch.randint(0, 256, (2, 3, 20, 24)).float()
    bgr = [image.flip(0) for image in raw.byte()]  # as images are read
    expected = classifier(**classifier.data_preprocessor(dict(inputs=bgr)), mode='tensor')
    actual, _, _ = OnnxFile(path).run(raw)
    torch.testing.assert_close(actual['logits'], expected, rtol=1e-5, atol=1e-5)


def without_state(u, delta, A, B, C, D, delta_bias, delta_softplus):
    """A scan that forgets: exp(delta * A) is 0."""
    return selective_scan_reference(u, delta, torch.full_like(A, -1e4), B, C, D, delta_bias, delta_softplus)


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('scans', [('deformable',), ANY_SIZE], ids=['deformable', 'all'])
def test_the_state_matters_in_these_networks(scans, formulation, lively):
    torch.manual_seed(0)
    network = small_backbone(lively, scans, formulation)
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        (maps,) = network(images)
        with use_backend(without_state):
            (other,) = network(images)
    assert float((maps - other).abs().max() / maps.abs().max()) > 0.05


def _replace_decay(model, operator):
    """Let another operator stand where the scan computes its decay exp(delta A), which is between 0 and 1."""
    (scan,) = (function for function in model.functions if function.name == 'SelectiveScan')
    for node in scan.node:
        for attribute in node.attribute:
            if attribute.name == 'body':
                for inner in attribute.g.node:
                    if inner.op_type == 'Exp':
                        inner.op_type = operator


def _scale_state(model):
    _replace_decay(model, 'Neg')


def _forget_state(model):
    _replace_decay(model, 'Relu')  # of a negative number: the decay is 0


def _sort_backwards(model):
    (sort,) = (function for function in model.functions if function.name == 'ArgSort')
    for node in sort.node:
        for attribute in node.attribute:
            if attribute.name == 'largest':
                attribute.i = 1


def _change_weight(model):
    weight = max(model.graph.initializer, key=lambda x: len(x.raw_data))
    values = onnx.numpy_helper.to_array(weight) * 1.001
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype('float32'), weight.name))


BROKEN = [_scale_state, _forget_state, _sort_backwards, _change_weight]


@pytest.mark.parametrize('damage', BROKEN)
def test_the_check_finds_a_broken_file(damage, exported, tmp_path):
    network, path = exported
    model = onnx.load(path)
    damage(model)
    onnx.save(model, tmp_path / 'broken.onnx')
    found = verify(OnnxFile(tmp_path / 'broken.onnx'), network, [(1, 40, 56), (1, 33, 47)], raw=True)
    assert found.problems, found.table()


def test_a_file_of_one_size_does_not_pass_for_one_of_any_size(lively, tmp_path):
    network = small_backbone(lively)
    path = to_file(network, tmp_path / 'static.onnx', (24, 40), 1)
    assert verify(OnnxFile(path), network, [(1, 24, 40)]).problems == []
    assert 'does not run' in verify(OnnxFile(path), network, [(1, 24, 48)]).problems[0]


@pytest.mark.parametrize('scans', [FEW, pytest.param(ANY_SIZE, marks=pytest.mark.sweep)], ids=['few', 'all'])
def test_all_kinds_of_scans_of_any_size_in_one_block(scans, lively, tmp_path):
    network = small_backbone(lively, scans, dw_conv=False, drop_path_rate=0.1, with_cp=True)
    found = verify(OnnxFile(to_file(network, tmp_path / 'all.onnx')), network, [*SIZES, (1, 40, 1), (1, 2, 3)])
    assert found.problems == [], found.table()
    assert found.comparisons[0].tokens > 2 * 16 * 24  # the deformable and content orders were compared


def test_scans_that_cannot_be_exported_are_named(lively, tmp_path):
    with pytest.raises(ValueError, match=r"scan 'hilbert' cannot be exported for any size.* --static --shape"):
        trace(small_backbone(lively, ('hilbert',)))
    for shape in (None, (16, 24)):
        with pytest.raises(ValueError, match="scan 'spanning_tree' cannot be exported"):
            trace(small_backbone(lively, ('spanning_tree',)), shape)
    network = small_backbone(lively, ('hilbert',))
    path = to_file(network, tmp_path / 'hilbert.onnx', (20, 28), 2)
    assert verify(OnnxFile(path), network, [(2, 20, 28)]).problems == []


def test_an_order_that_looks_at_the_size_is_refused(lively):
    from mmdefmamba.scans.base import SCANS, StaticScan

    class Wider(StaticScan):
        def order(self, height, width):
            places = torch.arange(height * width)
            return places.flip(0) if width > height else places

    SCANS.register_module(name='wider', module=Wider)
    try:
        with pytest.raises(ValueError, match="scan 'wider' cannot be exported for any size"):
            trace(small_backbone(lively, ('wider',)))
    finally:
        SCANS.module_dict.pop('wider')


def test_programs_of_torch_export_load_with_the_operators_alone(tool, tmp_path, capsys):
    path = tmp_path / 'network.pt2'
    assert tool(path, '--format', 'pt2', '--part', 'backbone', '--shape', '33', '40') == 0
    printed = capsys.readouterr().out
    assert '1 x 33 x 40: equal' in printed and f'{path}: written and checked' in printed
    assert 'of 90' in printed  # 9 x 10 tokens were compared
    code = (
        'import sys, torch, mmdefmamba.ops\n'
        f'maps = torch.export.load({str(path)!r}).module()(torch.ones(1, 3, 7, 9))\n'
        'print(maps[0].shape == (1, 8, 2, 3), "mmengine" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['True', 'False']


def test_an_inlined_file_of_one_size_has_standard_operators_alone(tool, classifier, tmp_path, capsys):
    path = tmp_path / 'inlined.onnx'
    assert tool(path, '--inline', '--static', '--shape', '24', '40', '--batch', '2') == 0
    assert capsys.readouterr().out.count('2 x 24 x 40: equal') == 3
    model = onnx.load(path)
    assert not model.functions and {node.domain for node in model.graph.node} == {''}
    sides = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert sides == [2, 3, 24, 40]
    # normalised images: no preprocessing in the file
    images = torch.randn(2, 3, 24, 40)
    actual, _, _ = OnnxFile(path).run(images)
    torch.testing.assert_close(actual['logits'], classifier(images, mode='tensor'), rtol=1e-5, atol=1e-5)


@pytest.fixture
def functions_that_forget(monkeypatch):
    """Files are written with a scan without a state."""
    from mmdefmamba.export import onnx_functions

    model = onnx.ModelProto(functions=onnx_functions.functions())
    _forget_state(model)
    monkeypatch.setattr(onnx_functions, 'functions', lambda: list(model.functions))


@pytest.mark.usefixtures('functions_that_forget')
@pytest.mark.parametrize('options', [(), ('--inline', '--part', 'backbone')], ids=['plain', 'inlined'])
def test_a_wrong_file_is_not_left_and_the_tool_fails(options, tool, tmp_path, capsys):
    path = tmp_path / 'model.onnx'
    if options:
        path.write_bytes(b'an older file')
    assert tool(path, '--static', '--shape', '24', '40', *options) == 1
    printed = capsys.readouterr()
    assert 'does not compute what the network computes, and was deleted' in printed.err
    assert 'dssm alone differs by' in printed.err and 'written' not in printed.out
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b'an older file'] * len(options[:1])


@pytest.mark.usefixtures('functions_that_forget')
def test_a_wrong_file_is_an_error_in_python(classifier, tmp_path):
    with pytest.raises(WrongFileError) as error:
        export_model(CFG, classifier, tmp_path / 'x.onnx', part='backbone', shape=(8, 8), static=True)
    assert error.value.verification.problems and list(tmp_path.iterdir()) == []


def test_mistakes_end_the_tool_with_a_message(tool, tmp_path, capsys):
    for out, options, message in (
        (tmp_path / 'nowhere/x.onnx', (), 'error: the folder'),
        (tmp_path, (), f'error: {tmp_path} is a folder'),
        (tmp_path / 'x.onnx', ('--static',), 'give it with --shape HEIGHT WIDTH'),
        (tmp_path / 'x.pt2', ('--format', 'pt2', '--inline'), 'inline is an option of the format onnx'),
    ):
        assert tool(out, *options) == 1
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(format='tflite'), 'format must be one of'),
        (dict(static=True), 'give it with --shape HEIGHT WIDTH'),
        (dict(shape=(0, 3)), 'both positive, got'),
        (dict(batch=2), 'only for a static file'),
        (dict(format='pt2', inline=True), 'inline is an option of the format onnx'),
        (dict(part='head'), 'part must be one of'),
    ],
)
def test_wrong_options_are_errors(options, message, classifier, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_model(CFG, classifier, tmp_path / 'x.onnx', **options)
    assert list(tmp_path.iterdir()) == []


def test_models_for_pretraining_have_no_logits_and_export_their_backbone(tmp_path):
    from mmdefmamba import get_model

    model = get_model('simmim_defmamba_pico_digits')
    with pytest.raises(ValueError, match=r'SimMIM gives no logits.* Export its backbone, --part backbone'):
        export_model(model.cfg, model, tmp_path / 'x.onnx')
    network = exported_part(model.cfg, model, 'backbone')
    with torch.no_grad():
        assert [x.shape for x in network(torch.zeros(1, 3, 32, 64))] == [(1, 128, 1, 2)]


def test_metafiles_say_what_each_model_exports():
    """The sweep exports a model of each kind. Here the metafiles are read."""
    from mmdefmamba import list_models
    from mmdefmamba.apis.zoo import model_metadata

    expected = dict(classification='logits', segmentation='logits', detection='maps of backbone and neck')
    for task, result in expected.items():
        for name in list_models(task=task):
            pretraining = name.startswith(('simmim', 'mocov3'))
            assert model_metadata(name)['Export'] == ('maps of the backbone' if pretraining else result), name


def test_half_precision_is_refused(classifier, tmp_path):
    import copy

    with pytest.raises(ValueError, match=r'has dtype torch\.float16; only float32 is exported'):
        export_model(CFG, copy.deepcopy(classifier).half(), tmp_path / 'x.onnx')


@pytest.mark.parametrize('package', ['onnxscript', 'onnxruntime'])
def test_missing_packages_are_named(package, classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    module = sys.modules['mmdefmamba.export.export_model']
    monkeypatch.setattr(module, 'trace', None)  # the error comes before the long work
    with pytest.raises(ImportError, match=r"pip install 'mmdefmamba\[export\]'"):
        export_model(CFG, classifier, tmp_path / 'x.onnx')


def test_an_old_pytorch_is_refused_before_the_work(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules['mmdefmamba.export.export_model'], 'trace', None)
    monkeypatch.setattr(torch, '__version__', '2.10.1+cpu')
    with pytest.raises(ImportError, match=r'the export needs PyTorch 2\.11 or newer, this is 2\.10\.1\+cpu\. Update'):
        export_model(CFG, classifier, tmp_path / 'x.onnx')


@pytest.mark.parametrize('legacy', [False, True])
def test_traces_are_refused_with_the_name_of_the_tool(legacy, lively, tmp_path):
    network, images = small_backbone(lively), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r'tools/export\.py'):
        if legacy:
            torch.onnx.export(network, (images,), tmp_path / 'x.onnx', dynamo=False)
        else:
            torch.jit.trace(network, images)


@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.sweep)])
def test_the_backbone_compiles_for_free_sizes(backend, lively):
    """As one graph, which serves all sizes. Inductor needs a C++ compiler and minutes:

    python -m pytest -m sweep -k compiles tests/test_export/test_export.py
    """
    torch._dynamo.reset()
    network = small_backbone(lively, ('deformable', 'local', 'raster_reverse')).network
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(network, backend=counter, dynamic=True, fullgraph=True)
    compilations = set()
    with torch.no_grad():
        for size in ((2, 3, 33, 40), (3, 3, 24, 16)):
            images = torch.randn(size)
            torch.testing.assert_close(compiled(images), network(images), rtol=1e-5, atol=1e-5)
            compilations.add(counter.frame_count)
    assert len(compilations) == 1
    torch._dynamo.reset()
