"""Checkpoints whose content cannot be: each is refused with the name of the file, by every part that loads one."""

import pickle
import time
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import mmdefmamba
from mmdefmamba.checkpoints import fit, load_pretrained, state_dict_of
from mmdefmamba.checkpoints.contents import MAX_DEPTH, brief, check_contents
from mmdefmamba.checkpoints.fit import not_finite
from mmdefmamba.cli import infer
from mmdefmamba.compat import load_safely


def nested(depth):
    value = 'name'
    for _ in range(depth):
        value = [value]
    return value


def doubled(depth):
    """A list of a few bytes that holds 2 ** depth values, as seen by whoever walks through it."""
    value = ['name']
    for _ in range(depth):
        value = [value, value]
    return value


WRONG = {
    'meta 3': (dict(meta=3), r'meta must be a dict, got the int 3'),
    'meta list': (dict(meta=[]), r'meta must be a dict, got a list of 0'),
    'dataset_meta list': (dict(meta=dict(dataset_meta=['a'])), r'meta\.dataset_meta must be a dict, got a list of 1'),
    'classes int': (dict(meta=dict(dataset_meta=dict(classes=7))), r'classes must be a list of names, got the int 7'),
    'classes text': (
        dict(meta=dict(dataset_meta=dict(classes='red'))),
        r'classes must be a list of names, got the str',
    ),
    'classes dict': (dict(meta=dict(dataset_meta=dict(classes={0: 'a'}))), r'a list of names, got a dict of 1'),
    'classes bytes': (
        dict(meta=dict(dataset_meta=dict(CLASSES=(b'a',)))),
        r'CLASSES\[0\] must be a name, got the bytes',
    ),
    'classes nested': (dict(meta=dict(dataset_meta=dict(classes=[['a', 'b']]))), r'classes\[0\] must be a name'),
    'classes of meta': (dict(meta=dict(CLASSES=5)), r'meta\.CLASSES must be a list of names'),
    'long name': (dict(meta=dict(dataset_meta=dict(classes=['a', 'b' * 2000]))), r'classes\[1\] .* 1000 characters'),
    'nested 30 deep': (dict(meta=dict(dataset_meta=dict(classes=nested(30)))), r'deeper than 20 levels'),
    'doubled 60 times': (dict(meta=dict(dataset_meta=dict(classes=doubled(19)))), r'deeper than|more than 1,000,000'),
    'many values': (dict(meta=dict(note=list(range(1_000_001)))), r'more than 1,000,000 values'),
    'large array': (dict(meta=dict(note=np.broadcast_to(np.int8(0), (10**6, 10**6)))), r'more than 1,000,000 values'),
    'long text': (dict(meta=dict(cfg='x' * (2**26 + 1))), r'more than 64 MiB of text'),
    'palette int': (dict(meta=dict(dataset_meta=dict(palette=1))), r'palette must be a list of colours'),
    'palette 300': (dict(meta=dict(dataset_meta=dict(palette=[(0, 0, 300)]))), r'palette\[0\] must be a colour'),
    'palette texts': (dict(meta=dict(dataset_meta=dict(palette=['red']))), r'palette\[0\] must be a colour'),
    'epoch text': (
        dict(meta=dict(epoch='3')),
        r"meta\.epoch must be a whole number from 0, got the str '3'|str \"'3'\"",
    ),
    'iter -1': (dict(meta=dict(iter=-1)), r'meta\.iter must be a whole number from 0, got the int -1'),
    'epoch true': (dict(meta=dict(epoch=True)), r'meta\.epoch must be a whole number'),
    'cfg 3': (dict(meta=dict(cfg=3)), r'meta\.cfg must be a str or a dict, got the int 3'),
    'time': (dict(meta=dict(time=[1])), r'meta\.time must be a str'),
    'message_hub': (dict(message_hub=1), r'message_hub must be a dict, got the int 1'),
    'optimizer': (dict(optimizer=[1]), r'optimizer must be a dict, got a list of 1'),
    'param_schedulers': (dict(param_schedulers='x'), r'param_schedulers must be a dict or a list'),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_content_is_refused_with_file_and_entry(name):
    content, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as caught:
        state_dict_of(dict(state_dict={'a': torch.zeros(1)}, **content), 'folder/x.pth')
    assert str(caught.value).startswith('folder/x.pth is refused: ')
    assert len(str(caught.value)) < 500 and '\n' not in str(caught.value)


def test_what_trainings_write_is_accepted():
    names = tuple(f'n{i}' for i in range(21841))
    meta = dict(
        epoch=np.int64(3), iter=0, cfg='a = 1', seed=None, experiment_name='x', time='2026', mmengine_version='0.11',
        hook_msgs={}, dataset_meta=dict(CLASSES=names, PALETTE=[[0, 128, 255]], label2cat={0: 'a'}, classes=None),
    )  # fmt: skip
    content = dict(meta=meta, state_dict={}, message_hub={}, optimizer={}, param_schedulers=[])
    assert check_contents(content, 'x.pth') is content
    for other in (None, [1], dict(state_dict={}), dict(meta=None), dict(meta=dict(dataset_meta=None))):
        assert check_contents(other, 'x.pth') is other
    for other in (dict(classes=[0, 1]), dict(classes=np.array(['a', 'b'])), dict(palette='random'), dict(palette=[])):
        check_contents(dict(meta=dict(dataset_meta=other)), 'x.pth')
    check_contents(dict(meta=dict(note=nested(MAX_DEPTH - 2))), 'x.pth')


def test_control_characters_of_a_path_do_not_reach_the_error():
    with pytest.raises(ValueError, match=r'^a\\nerror\\x1b\[2J\\u202eb\.pth is refused'):
        check_contents(dict(meta=1), 'a\nerror\x1b[2J\u202eb.pth')
    assert brief('\x1b[2J') == "the str '\\x1b[2J'"


def impossible():
    whole = torch.zeros(2, 2)
    with torch.device('meta'):
        meta = torch.zeros(2, 2)
    quantized = torch.quantize_per_tensor(whole, 1.0, 0, torch.qint8)
    return dict(
        complex=whole.to(torch.complex64),
        sparse=whole.to_sparse(),
        csr=whole.to_sparse_csr(),
        meta=meta,
        quant=quantized,
    )


@pytest.mark.parametrize('kind', ['complex', 'sparse', 'csr', 'meta', 'quant'])
@pytest.mark.filterwarnings('ignore')
def test_tensors_that_cannot_be_weights_are_named_in_two_lines(kind, tmp_path):
    model = nn.Linear(2, 2)
    verdict = fit(model, {'weight': impossible()[kind], 'bias': torch.zeros(2)})
    assert not verdict.complete and verdict.matched == 1
    expected = dict(
        complex='complex64', sparse='sparse_coo, not dense', csr='sparse_csr, not dense', meta='without values'
    )
    assert f'weight {expected.get(kind, "quantized")}' in str(verdict)
    whole = {name: value.to(torch.complex64) for name, value in nn.Linear(300, 3).state_dict().items()}
    torch.save(whole, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='complex64') as caught:
        load_pretrained(nn.Linear(300, 3), str(tmp_path / 'x.pth'))
    assert len(str(caught.value)) < 1000


def test_not_finite_values_are_counted_by_name():
    model = nn.Linear(3, 2)
    state = {'weight': torch.tensor([[0, float('nan'), float('inf')], [0, 0, 0]]), 'bias': torch.zeros(2)}
    assert not_finite(model, state) == {'weight': 2}
    # a file can claim any shape for one value: such an entry is not read
    assert not_finite(model, {'weight': torch.tensor(float('nan')).expand(2**20, 2**20)}) == {}
    with pytest.raises(ValueError, match='NaN or infinite values in 1 parameters of Linear, such as weight'):
        _pretrained(model, state)


def _pretrained(model, state):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmdefmamba.checkpoints.pretrained.CheckpointLoader.load_checkpoint', lambda *_, **__: state)
        load_pretrained(model, 'x.pth')


def test_loading_a_model_says_which_weights_are_not_finite(pico_checkpoints, tmp_path, told):
    name, file = pico_checkpoints['classification']
    content = torch.load(file)
    content['state_dict']['head.fc.bias'][:3] = float('nan')
    torch.save(content, tmp_path / 'nan.pth')
    mmdefmamba.get_model(name, tmp_path / 'nan.pth')
    [line] = [text for level, text in told if 'NaN' in text and level == 'WARNING']
    assert 'nan.pth holds 3 NaN or infinite values in 1 parameters, such as head.fc.bias (3)' in line


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        (5, 'meta must be a dict'),
        (dict(dataset_meta=['a']), 'meta.dataset_meta must be a dict'),
        (dict(dataset_meta=dict(classes=3)), 'must be a list of names'),
        (dict(dataset_meta=dict(classes=['one'])), 'names 1 classes, but in the model head has 10'),
        (dict(dataset_meta=dict(classes=nested(30))), 'deeper than'),
    ],
)
def test_infer_ends_with_one_line_that_names_the_file(meta, message, pico_checkpoints, tmp_path, capsys):
    name, file = pico_checkpoints['classification']
    torch.save(dict(state_dict=torch.load(file)['state_dict'], meta=meta), tmp_path / 'x.pth')
    (tmp_path / 'a.png').write_bytes(b'')
    args = [str(tmp_path / 'a.png'), '--config', name, '--checkpoint', str(tmp_path / 'x.pth'), '--device', 'cpu']
    assert infer.main([*args, '--out-dir', str(tmp_path / 'out')]) == infer.FAILED
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error')]
    assert f'{tmp_path / "x.pth"} is refused' in line and message in line


def test_a_config_with_other_classes_gives_numbers(told):
    cfg = mmdefmamba.apis.zoo.load_config('defmamba_pico_digits')
    cfg.model.head.num_classes = 4
    assert mmdefmamba.get_model(cfg).dataset_meta == {}
    assert any('name 10 classes, but in the model head has 4' in text for _, text in told)


class Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize(
    'bomb',
    [
        Call(list, range(10**12)),
        Call(bytes, 10**15),
        Call(set, range(10**12)),
        Call(str, [[1]]),
        Call(list, bytearray(9)),
    ],
    ids=['list', 'bytes', 'set', 'str', 'bytearray'],
)
def test_a_few_bytes_of_a_pickle_do_not_fill_the_memory(bomb, tmp_path):
    torch.save(dict(meta=bomb), tmp_path / 'bomb.pth')
    with pytest.raises(pickle.UnpicklingError, match=r'bomb\.pth was not loaded'):
        load_safely(tmp_path / 'bomb.pth')


def test_a_zip_that_claims_more_than_it_has_is_refused(tmp_path):
    torch.save(dict(a=torch.zeros(100_000)), tmp_path / 'whole.pth')
    with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(tmp_path / 'x.pth', 'w', 8) as packed:
        for record in whole.infolist():
            packed.writestr(record.filename, whole.read(record))
    with pytest.raises(RuntimeError, match=r'x\.pth cannot be read .* claim 40\d{4} bytes, but the file has \d{4}\.'):
        load_safely(tmp_path / 'x.pth')


def test_a_long_error_of_the_unpickler_takes_no_long_time(tmp_path):
    """Found among 10,000 mutated files: a pattern with a star, searched in an error that prints what was unpickled."""
    text = b'x ' * 500_000
    with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as file:
        file.writestr('x/data.pkl', b'\x80\x02X' + len(text).to_bytes(4, 'little') + text + b')R.')
        file.writestr('x/version', '3\n')
    start = time.monotonic()
    with pytest.raises(pickle.UnpicklingError, match='it calls what is no function') as caught:
        load_safely(tmp_path / 'x.pth')
    assert time.monotonic() - start < 20 and len(str(caught.value)) < 1500
