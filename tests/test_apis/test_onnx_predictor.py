"""Predictions with exported files against those of config and checkpoint, and files that are refused."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import mmdefmamba  # noqa: E402
from mmdefmamba.apis import onnx_predictor  # noqa: E402
from mmdefmamba.apis.zoo import load_config  # noqa: E402
from mmdefmamba.cli import infer  # noqa: E402
from mmdefmamba.export.file_metadata import KEY, describe_model, read_description  # noqa: E402
from mmdefmamba.export.graph import exported_part  # noqa: E402

CLASSES = 10


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two colour images of different sizes, and a grey one."""
    folder = tmp_path_factory.mktemp('images')
    random = np.random.default_rng(0)
    for name, shape in (('a.png', (90, 150, 3)), ('b.png', (120, 64, 3)), ('c.png', (90, 150))):
        picture = cv2.resize(random.integers(0, 256, (6, 8, *shape[2:]), dtype=np.uint8), shape[1::-1])
        assert cv2.imwrite(str(folder / name), picture)
    return folder


def described(cfg, model, **changes):
    description = json.loads(describe_model(cfg, model, part='model', preprocessing=False))
    return json.dumps({**description, **changes})


def write_file(path, metadata, weights=None):
    """Write an ONNX file: the mean of each channel of the images times ``weights``, (channels, classes)."""
    weights = np.ones((3, CLASSES), np.float32) if weights is None else weights
    value, helper = onnx.helper.make_tensor_value_info, onnx.helper
    nodes = [
        helper.make_node('GlobalAveragePool', ['images'], ['mean']),
        helper.make_node('Flatten', ['mean'], ['flat']),
        helper.make_node('MatMul', ['flat', 'weights'], ['logits']),
    ]
    inputs = [value('images', onnx.TensorProto.FLOAT, ['batch', 3, 'height', 'width'])]
    outputs = [value('logits', onnx.TensorProto.FLOAT, ['batch', CLASSES])]
    graph = helper.make_graph(nodes, 'g', inputs, outputs, [onnx.numpy_helper.from_array(weights, 'weights')])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=10)
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, path)
    return path


@pytest.fixture
def run(tmp_path):
    """``run(name, *args)`` runs the tool and returns its exit code, its JSON file, and its output folder."""

    def run(name, *args):
        out = tmp_path / name
        code = infer.main([*map(str, args), '--out-dir', str(out)])
        file = out / 'predictions.json'
        return code, json.loads(file.read_text()) if file.is_file() else None, out

    return run


@pytest.mark.parametrize('task, preprocessing', [('classification', True), ('segmentation', False)])
def test_infer_onnx_writes_what_config_and_checkpoint_write(
    task, preprocessing, images, run, tmp_path, pico_checkpoints, monkeypatch
):
    name, checkpoint = pico_checkpoints[task]
    cfg, model = load_config(name), mmdefmamba.get_model(name, checkpoint)
    text = describe_model(cfg, model, part='model', preprocessing=preprocessing)
    file = write_file(tmp_path / 'model.onnx', {KEY: text})
    # the network of the checkpoint in place of the graph: all that is around the graph is compared
    network = exported_part(cfg, model, 'model', preprocessing)
    monkeypatch.setattr(onnx_predictor.ExportedNetwork, '_run', lambda self, inputs: network(inputs)[0].detach())
    code, found, out = run('onnx', images, '--onnx', file)
    assert code == 0 and found['onnx'] == str(file) and found['checkpoint'] is None
    code, expected, other = run('config', images, '--config', name, '--checkpoint', checkpoint, '--device', 'cpu')
    assert code == 0
    assert (found['task'], found['classes'], found['skipped']) == (task, expected['classes'], [])
    for entry, reference in zip(found['images'], expected['images'], strict=True):
        numbers = {key: (entry.pop(key), reference.pop(key)) for key in ('scores', 'score', 'shares') if key in entry}
        assert entry == reference
        if 'shares' in numbers:
            ours, theirs = numbers['shares']
            assert ours == pytest.approx(theirs, abs=0.002)  # a pixel between two classes may change
        else:
            np.testing.assert_allclose(*numbers['scores'], atol=2e-6)
        if task == 'classification':
            np.testing.assert_array_equal(*(cv2.imread(str(o / entry['picture'])) for o in (out, other)))
        else:
            ours, theirs = (cv2.imread(str(o / entry['map']), -1) for o in (out, other))
            assert ours.shape == theirs.shape and (ours != theirs).mean() < 0.002


@pytest.mark.parametrize('batch', [None, 2])
def test_images_reach_onnxruntime_as_the_test_pipeline_makes_them(batch, images, run, tmp_path, pico_checkpoints):
    name, checkpoint = pico_checkpoints['classification']
    weights = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)
    cfg, model = load_config(name), mmdefmamba.get_model(name, checkpoint)
    fixed = {} if batch is None else dict(batch=batch, shape=[32, 32])
    file = write_file(tmp_path / 'model.onnx', {KEY: described(cfg, model, **fixed)}, weights)
    code, document, _ = run('out', images, '--onnx', file, '--batch-size', 3)
    assert code == 0
    for entry in document['images']:
        image = cv2.resize(cv2.imread(entry['path']), (32, 32), interpolation=cv2.INTER_CUBIC)
        logits = ((image.mean((0, 1)) - 127.5) / 127.5) @ weights  # BGR: this config does not turn colours
        expected = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(entry['scores'], expected, atol=1e-5)


def test_files_that_cannot_predict_are_refused_with_a_remedy(images, run, tmp_path, pico_checkpoints, capsys):
    name, checkpoint = pico_checkpoints['classification']
    cfg, model = load_config(name), mmdefmamba.get_model(name, checkpoint)
    good = json.loads(describe_model(cfg, model, part='model', preprocessing=False))
    attack = [{'type': 'os.system', 'command': 'true'}]
    cases = [
        ({}, 'does not say what it predicts'),
        ({KEY: '{'}, 'damaged'),
        ({KEY: '[]'}, 'as format a list of 0'),
        ({KEY: '[' * 100_000}, 'damaged'),
        ({KEY: json.dumps({**good, 'format': 2})}, 'as format the int 2'),
        ({KEY: json.dumps({'format': 1})}, 'lacks'),
        ({KEY: json.dumps({**good, 'task': 'detection'})}, 'the backbone and neck of a detector'),
        ({KEY: json.dumps({**good, 'part': 'backbone'})}, 'holds a backbone'),
        ({KEY: json.dumps({**good, 'pipeline': None, 'pipeline_reason': 'it has Mine'})}, 'it has Mine'),
        ({KEY: json.dumps({**good, 'outputs': None})}, 'how its logits become predictions'),
        ({KEY: json.dumps({**good, 'pipeline': attack})}, 'the step os.system'),
        (
            {KEY: json.dumps({**good, 'pipeline': [{'type': 'Resize', 'scale': {'type': 'os.system'}}]})},
            'Resize with scale',
        ),
        ({KEY: json.dumps({**good, 'pipeline': [{'type': 'Resize', 'backend_args': 1}]})}, 'the argument backend_args'),
        ({KEY: json.dumps({**good, 'pipeline': [{'type': 'Resize', 'scale': [10**6, 1]}]})}, 'Resize with scale'),
        ({KEY: json.dumps({**good, 'pipeline': 3})}, "the int 3 as 'pipeline'"),
        ({KEY: json.dumps({**good, 'batch': True})}, "the bool True as 'batch'"),
        ({KEY: json.dumps({**good, 'shape': [32, 10**9]})}, "a list of 2 as 'shape'"),
        ({KEY: json.dumps({**good, 'mean': [float('nan')]})}, "a list of 1 as 'mean'"),
        ({KEY: json.dumps({**good, 'std': [0.0] * 3})}, "a list of 3 as 'std'"),
        ({KEY: json.dumps({**good, 'std': [1.0]})}, "'mean' and 'std' in its description differ in length"),
        ({KEY: json.dumps({**good, 'classes': ['a', 2.5]})}, 'classes[1] must be a name'),
        ({KEY: json.dumps({**good, 'preprocessor': {'pad_size_divisor': 10**12}})}, "a dict of 1 as 'preprocessor'"),
        ({KEY: json.dumps({**good, 'outputs': {'activation': 'eval'}})}, "the str 'eval' as the str 'activation'"),
        ({KEY: json.dumps({**good, 'task': 'segmentation'})}, 'outputs of another task'),
    ]
    for metadata, words in cases:
        code, document, _ = run('out', images, '--onnx', write_file(tmp_path / 'model.onnx', metadata))
        assert (code, document) == (2, None)
        assert words in capsys.readouterr().err
    # a graph that contradicts itself
    file = write_file(tmp_path / 'model.onnx', {KEY: json.dumps(good)}, np.ones((1, CLASSES), np.float32))
    assert run('out', images, '--onnx', file)[0] == 2
    assert 'model.onnx cannot be read as an ONNX file' in capsys.readouterr().err
    (tmp_path / 'text.onnx').write_text('not a model')
    assert run('out', images, '--onnx', tmp_path / 'text.onnx')[0] == 2
    assert 'cannot be read as an ONNX file' in capsys.readouterr().err
    assert run('out', images, '--onnx', tmp_path / 'none.onnx')[0] == 2
    file = write_file(tmp_path / 'model.onnx', {KEY: json.dumps(good)})
    assert run('out', images, '--onnx', file, '--device', 'cuda:7')[0] == 2
    assert 'cuda:7' in capsys.readouterr().err
    # images of another number of channels than the network takes: each is skipped, and named
    steps = [{'type': 'LoadImageFromFile', 'color_type': 'grayscale'}, {'type': 'Resize', 'scale': [32, 32]}]
    changes = {'pipeline': steps, 'mean': [0.0], 'std': [1.0], 'to_rgb': False}
    file = write_file(tmp_path / 'model.onnx', {KEY: json.dumps({**good, **changes})})
    code, document, _ = run('out', images, '--onnx', file)
    assert code == 1 and len(document['skipped']) == 3
    assert document['skipped'][0]['error'].startswith(str(file))
    assert 'cannot predict' in document['skipped'][0]['error']
    # a file of one size: each image is skipped, and named
    file = write_file(tmp_path / 'model.onnx', {KEY: json.dumps({**good, 'shape': [64, 64], 'batch': 1})})
    code, document, _ = run('out', images, '--onnx', file)
    assert code == 1 and len(document['skipped']) == 3
    assert 'images of 64 x 64 alone' in document['skipped'][0]['error']


def test_a_model_comes_from_a_file_or_from_config_and_checkpoint(images, run, capsys):
    for options in ([], ['--config', 'c'], ['--onnx', 'f', '--config', 'c'], ['--onnx', 'f', '--checkpoint', 'c']):
        with pytest.raises(SystemExit):
            run('out', images, *options)
        assert 'give --config and --checkpoint, or --onnx alone' in capsys.readouterr().err


def test_a_pipeline_with_a_step_of_ones_own_is_not_described(pico_checkpoints):
    name, checkpoint = pico_checkpoints['segmentation']
    cfg, model = load_config(name), mmdefmamba.get_model(name, checkpoint)
    cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='MyBlur', radius=3))
    text = describe_model(cfg, model, part='model', preprocessing=False)
    description = read_description(text, 'file')
    assert description['pipeline'] is None
    assert description['pipeline_reason'].startswith('the test pipeline of the config has the step MyBlur')


def test_every_config_of_the_package_that_classifies_or_segments_is_described():
    from mmdefmamba.export.file_metadata import STEPS, _pipeline

    for task in ('classification', 'segmentation'):
        for name in mmdefmamba.list_models(task=task):
            if 'simmim' in name or 'mocov3' in name:
                continue  # pretraining has no test
            pipeline, reason = _pipeline(load_config(name))
            assert reason is None and {step['type'] for step in pipeline} <= STEPS.keys(), name


def test_code_of_the_page_runs(images, tmp_path, pico_checkpoints, monkeypatch):
    name, checkpoint = pico_checkpoints['classification']
    text = describe_model(load_config(name), mmdefmamba.get_model(name, checkpoint), part='model', preprocessing=True)
    write_file(tmp_path / 'model.onnx', {KEY: text})
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('photo.jpg', cv2.imread(str(images / 'a.png')))
    page = (Path(__file__).parents[2] / 'docs/howto/export.md').read_text()
    blocks = [block.partition('```')[0] for block in page.split('```python\n')[1:]]
    assert len(blocks) >= 4
    names = {}
    for block in blocks:
        if 'import openvino' not in block or importlib.util.find_spec('openvino'):
            exec(compile(block, 'page', 'exec'), names)
    assert names['logits'].shape == (1, CLASSES) and names['predictor'].task == 'classification'
    # the quantiser keeps the description
    assert onnx_predictor.get_onnx_predictor('model_int8.onnx', 'cpu').classes == tuple('0123456789')
