"""MMEngine's checkpoints load. Pickles that contain code are refused."""

import datetime
import io
import os
import pickle
import re
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, checkpoint, load_checkpoint

import mmdefmamba  # noqa: F401 (installs the loaders)
from mmdefmamba import compat
from mmdefmamba.compat import load_safely, safe_loading, trust_checkpoints


class Tiny(BaseModel):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg=init_cfg)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, *x, mode='tensor'):
        output = self.fc(torch.stack(x))
        return {'loss': output.square().mean()} if mode == 'loss' else output


class NumPyMetric(BaseMetric):
    """A metric whose result is a NumPy scalar. The checkpoint stores it as the best score."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'score': np.float32(0.75)}


def make_runner(work_dir, name, max_iters=3, **kwargs):
    data = torch.arange(32.0).view(8, 4) / 32
    loader = {'dataset': list(data), 'batch_size': 2, 'num_workers': 0, 'collate_fn': {'type': 'pseudo_collate'}}
    return Runner(
        Tiny(),
        str(work_dir),
        experiment_name=name,
        train_dataloader={**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        val_dataloader={**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        train_cfg={'by_epoch': False, 'max_iters': max_iters, 'val_interval': 3},
        val_cfg={},
        val_evaluator=Evaluator(NumPyMetric()),
        optim_wrapper={'optimizer': {'type': 'AdamW', 'lr': 0.01}},
        param_scheduler={'type': 'CosineAnnealingLR', 'by_epoch': False, 'T_max': 6},
        default_hooks={
            'logger': {'type': 'LoggerHook', 'interval': 1},
            'checkpoint': {
                'type': 'CheckpointHook',
                'by_epoch': False,
                'interval': 3,
                'save_best': 'score',
                'rule': 'greater',
            },
        },
        custom_hooks=[{'type': 'EMAHook'}],
        **kwargs,
    )


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('trained')
    runner = make_runner(work_dir, 'trained')
    runner.train()
    return runner, str(work_dir / 'iter_3.pth')


FUNCTIONS = {'open': io.open, 'mkdir': os.mkdir}


def test_a_run_resumes_from_its_checkpoint(trained, tmp_path):
    before, file = trained
    after = make_runner(tmp_path, 'resumed', max_iters=6, load_from=file, resume=True)
    after.call_hook('before_run')
    after.load_or_resume()
    assert after.iter == 3
    history = after.message_hub.get_scalar('train/loss').data
    assert len(history[0]) == 3 and history[0][0] > 0
    for new, old in zip(history, before.message_hub.get_scalar('train/loss').data, strict=True):
        assert type(new) is np.ndarray
        np.testing.assert_array_equal(new, old)
    best = after.message_hub.get_info('best_score')
    assert type(best) is np.float32 and best == 0.75
    for new, old in zip(after.model.parameters(), before.model.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=0)
    old_lr, new_lr = (runner.optim_wrapper.get_lr()['lr'] for runner in (before, after))
    assert old_lr == new_lr != [0.01]
    after.train()
    assert len(after.message_hub.get_scalar('train/loss').data[0]) == 6


def test_pretrained_init_and_load_from_load_weights(trained, tmp_path):
    _, file = trained
    expected = load_safely(file)['state_dict']['fc.weight']
    model = Tiny(init_cfg={'type': 'Pretrained', 'checkpoint': file})
    model.init_weights()
    runner = make_runner(tmp_path, 'finetuned', load_from=file)
    runner.call_hook('before_run')
    runner.load_or_resume()
    for loaded in (model, runner.model):
        torch.testing.assert_close(loaded.fc.weight.data, expected, rtol=0, atol=0)
    assert runner.iter == 0


def test_numpy_values_load_as_they_were_saved(tmp_path):
    meta = {code: np.dtype(code).type(1) for code in '?bBhHiIlLefdgFDG'}
    meta.update(array=np.arange(6.0).reshape(2, 3), empty=np.zeros((0, 2), 'i4'), tuple=(1, {2}, 'three', None))
    torch.save({'meta': meta}, tmp_path / 'numpy.pth')
    loaded = load_safely(tmp_path / 'numpy.pth')['meta']
    assert loaded.keys() == meta.keys()
    for key, value in meta.items():
        assert type(loaded[key]) is type(value)
        np.testing.assert_equal(loaded[key], value)


@pytest.mark.parametrize('core', [b'numpy.core', b'numpy._core'])
def test_files_of_numpy_1_and_2_load(core, tmp_path):
    file = tmp_path / 'numpy.pth'
    torch.save({'meta': [np.float64(2.5), np.arange(3)]}, file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    own = b'numpy._core' if b'numpy._core' in content else b'numpy.core'
    assert content.count(own) == 2
    file.write_bytes(content.replace(own, core))
    scalar, array = load_safely(file)['meta']
    assert scalar == 2.5 and array.tolist() == [0, 1, 2]


@pytest.mark.parametrize('form', ['zip', 'legacy', 'pickle'])
@pytest.mark.parametrize('function', FUNCTIONS)
def test_code_in_a_checkpoint_does_not_run(function, form, tmp_path, creates_file, assert_refused):
    function = FUNCTIONS[function]
    file, mark = str(tmp_path / 'evil.pth'), tmp_path / 'code_ran'
    content = {'state_dict': {}, 'meta': creates_file(str(mark), function)}
    if form == 'pickle':
        with open(file, 'wb') as stream:
            pickle.dump(content, stream, protocol=2)
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == 'zip')
    with pytest.raises(pickle.UnpicklingError) as error:
        load_checkpoint(Tiny(), file)
    assert_refused(error, file, f'{function.__module__}.{function.__name__}')
    assert not mark.exists()
    pickle.loads(pickle.dumps(content))
    assert mark.exists(), 'the file would do no harm: this test proves nothing'


@pytest.mark.parametrize('resume', [False, True])
def test_runner_refuses_checkpoints_with_code(resume, evil, tmp_path, assert_refused):
    file, mark = evil
    runner = make_runner(tmp_path, f'refuses_{resume}', load_from=file, resume=resume)
    with pytest.raises(pickle.UnpicklingError) as error:
        runner.train()
    assert_refused(error, file)
    assert not mark.exists()


def test_pretrained_init_refuses_checkpoints_with_code(evil, assert_refused):
    file, mark = evil
    with pytest.raises(pickle.UnpicklingError) as error:
        Tiny(init_cfg={'type': 'Pretrained', 'checkpoint': file}).init_weights()
    assert_refused(error, file)
    assert not mark.exists()


def test_pickled_model_is_refused_and_named(tmp_path, assert_refused):
    file = str(tmp_path / 'model.pth')
    torch.save(torch.nn.Linear(2, 2), file)
    with pytest.raises(pickle.UnpicklingError) as error:
        load_safely(file)
    assert_refused(error, file, 'torch.nn.modules.linear.Linear')
    with trust_checkpoints(file):
        assert isinstance(load_safely(file), torch.nn.Linear)


class Attribute:
    def __init__(self, *args):
        self.args = args

    def __reduce__(self):
        return getattr, self.args


@pytest.mark.parametrize(
    'args', [(HistoryBuffer, '__init__'), (np.ndarray, 'max'), (HistoryBuffer.mean, '__globals__')]
)
def test_getattr_reads_only_the_statistics_of_history_buffers(args, tmp_path, assert_refused):
    file = str(tmp_path / 'attribute.pth')
    torch.save([Attribute(HistoryBuffer, 'mean')], file)
    assert load_safely(file) == [HistoryBuffer.mean]
    torch.save([Attribute(*args)], file)
    with pytest.raises(pickle.UnpicklingError) as error:
        load_safely(file)
    assert_refused(error, file, 'getattr')


def test_a_pickle_that_weights_only_cannot_read_is_refused_with_the_reason(tmp_path):
    file = str(tmp_path / 'protocol4.pth')
    torch.save({'state_dict': {'weight': torch.ones(2)}}, file, pickle_protocol=4)
    with pytest.warns(UserWarning, match='pickle protocol 4'), pytest.raises(pickle.UnpicklingError) as error:
        load_safely(file)
    assert f'{file} was not loaded: its pickle is not plain (Unsupported operand 149)' in str(error.value)
    with trust_checkpoints(file):
        assert load_safely(file)['state_dict']['weight'].tolist() == [1, 1]


def test_trust_applies_only_inside_its_block_and_to_its_files(evil, tmp_path, monkeypatch):
    file, mark = evil
    with trust_checkpoints(tmp_path / 'other.pth'), pytest.raises(pickle.UnpicklingError):
        load_checkpoint(Tiny(), file)
    assert not mark.exists()
    monkeypatch.chdir(tmp_path)
    with trust_checkpoints('evil.pth'):
        assert 'state_dict' in load_checkpoint(Tiny(), file)
    assert mark.exists()
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(Tiny(), file)


def test_trust_by_a_call_applies_until_it_is_ended(evil):
    file, mark = evil
    trust = trust_checkpoints(file)
    load_safely(file)
    load_safely(file)
    assert mark.exists()
    with trust, trust_checkpoints(file):
        pass
    with pytest.raises(pickle.UnpicklingError):
        load_safely(file)


def test_trust_without_a_file_is_an_error():
    with pytest.raises(ValueError, match='name the checkpoints'):
        trust_checkpoints()


def cut(content):
    return content[: len(content) // 2]


BROKEN = {
    'cut': (cut, 'The end of the file is missing'),
    'empty': (lambda content: b'', 'It does not begin like a file of torch.save'),
    'text': (lambda content: b'hello, world\n', 'It does not begin like a file of torch.save'),
    'image': (lambda content: b'\x89PNG\r\n\x1a\n' + bytes(64), 'It does not begin like a file of torch.save'),
    # its list of contents says that the file continues on another disk, for which zipfile.is_zipfile can raise
    'split zip': (
        lambda content: content[:4] + content[5:-35] + b'\x01' + content[-34:],
        'The end of the file is missing',
    ),
    'other zip': (lambda content: b'PK\x05\x06' + bytes(18), 'It does not begin like a file of torch.save'),
}


@pytest.mark.parametrize('trusted', [False, True])
@pytest.mark.parametrize('kind', BROKEN)
def test_broken_file_error_gives_path_size_and_cause(kind, trusted, tmp_path):
    file, (damage, hint) = tmp_path / 'broken.pth', BROKEN[kind]
    torch.save({'state_dict': Tiny().state_dict()}, file)
    file.write_bytes(damage(file.read_bytes()))
    if trusted:
        with trust_checkpoints(file), pytest.raises(RuntimeError) as error:
            load_safely(str(file))
    else:
        with pytest.raises(RuntimeError) as error:
            load_safely(str(file))
    assert str(error.value).startswith(f'{file} cannot be read as a checkpoint ({file.stat().st_size} bytes): ')
    assert hint in str(error.value)


@pytest.mark.parametrize('kind', ['zip', 'legacy'])
def test_file_cut_at_any_byte_raises_an_error_with_its_path(kind, tmp_path):
    file = tmp_path / 'cut.pth'
    torch.save({'state_dict': Tiny().state_dict()}, file, _use_new_zipfile_serialization=kind == 'zip')
    content = file.read_bytes()
    for end in range(0, len(content), 61):
        file.write_bytes(content[:end])
        # UnpicklingError: a legacy file that is cut inside the name of a type asks for a type of another name
        with pytest.raises((RuntimeError, pickle.UnpicklingError), match=re.escape(str(file))):
            load_safely(str(file))


def test_missing_checkpoint_error_gives_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.pth does not exist'):
        load_checkpoint(Tiny(), str(tmp_path / 'gone.pth'))


def test_applying_mends_again_changes_nothing(caplog):
    before, allowed = dict(CheckpointLoader._schemes), set(torch.serialization.get_safe_globals())
    with caplog.at_level('INFO', 'mmdefmamba'):
        compat.apply()
    assert safe_loading.apply(checkpoint) is False
    assert caplog.messages == []
    assert CheckpointLoader._schemes == before
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_loaders_of_other_code_are_kept(monkeypatch):
    def load_from_local(filename, map_location=None):
        return {'mine': filename}

    monkeypatch.setattr(CheckpointLoader, '_schemes', OrderedDict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    assert safe_loading.apply(checkpoint) is False
    assert CheckpointLoader.load_checkpoint('a.pth') == {'mine': 'a.pth'}


SCHEDULERS = [
    dict(type='OneCycleLR', eta_max=0.1, total_steps=8),
    dict(type='OneCycleLR', eta_max=0.1, total_steps=8, anneal_strategy='linear'),
    dict(type='CosineAnnealingLR', T_max=4),
    dict(type='CosineRestartLR', periods=[2, 2], restart_weights=[1, 1], eta_min=0),
    dict(type='LinearLR', end=3),
    dict(type='MultiStepLR', milestones=[1, 2]),
    dict(type='PolyLR'),
    dict(type='ExponentialLR', gamma=0.5),
    dict(type='ReduceOnPlateauLR', monitor='loss'),
]


@pytest.mark.parametrize(
    'cfg', SCHEDULERS, ids=lambda cfg: '-'.join(str(v) for v in cfg.values() if isinstance(v, str))
)
def test_state_of_every_scheduler_loads(cfg, tmp_path):
    """A run must be able to read its own checkpoint when it is resumed."""
    from mmengine.optim import OptimWrapper
    from mmengine.registry import PARAM_SCHEDULERS

    def scheduler():
        optimizer = torch.optim.SGD(Tiny().parameters(), lr=0.1, momentum=0.9)
        return PARAM_SCHEDULERS.build(dict(cfg), default_args=dict(optimizer=OptimWrapper(optimizer)))

    saved = scheduler().state_dict()
    torch.save(dict(param_schedulers=[saved]), tmp_path / 'x.pth')
    (loaded,) = load_safely(tmp_path / 'x.pth')['param_schedulers']
    assert loaded.keys() == saved.keys()
    assert loaded.get('anneal_func') is saved.get('anneal_func')
    scheduler().load_state_dict(loaded)


def test_other_functions_of_a_scheduler_are_refused(tmp_path):
    class Asks:
        def __reduce__(self):
            from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

            return getattr, (OneCycleParamScheduler, 'build_iter_from_epoch')

    torch.save(dict(meta=Asks()), tmp_path / 'x.pth')
    with pytest.raises(pickle.UnpicklingError, match='it needs getattr'):
        load_safely(tmp_path / 'x.pth')


def test_metainfo_of_datasets_loads(tmp_path):
    meta = dict(
        config=ConfigDict(a=dict(b=1)),
        strings=np.array(['a', 'bc']),
        when=np.datetime64('2026-11-25'),
        path=Path('a/b.png'),
        names=frozenset({'x'}),
        range=range(3),
        day=datetime.datetime(2026, 11, 25),
    )
    torch.save(dict(meta=meta), tmp_path / 'x.pth')
    loaded = load_safely(tmp_path / 'x.pth')['meta']
    assert type(loaded['config']) is dict and loaded['config']['a']['b'] == 1
    np.testing.assert_array_equal(loaded.pop('strings'), meta.pop('strings'))
    assert str(loaded.pop('path')) == 'a/b.png'
    for name in ('when', 'names', 'range', 'day'):
        assert loaded[name] == meta[name], name


def test_what_other_code_loads_is_judged_as_without_us(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(dict(meta=np.arange(3)), tmp_path / 'x.pth')
    load_safely(tmp_path / 'x.pth')
    assert set(torch.serialization.get_safe_globals()) == before
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(before))
    load_safely(tmp_path / 'x.pth')


@pytest.mark.parametrize('first', ['mmdefmamba.compat', 'mmdefmamba.compat.safe_loading'])
def test_trust_can_be_imported_before_everything_else(first, run_python):
    """MMEngine's import applies the mend, which is in the module that imports MMEngine."""
    code = f'from {first} import trust_checkpoints, load_safely; print(trust_checkpoints.__name__)'
    assert run_python(code)[0].strip() == 'trust_checkpoints'


def doubled(kind, levels=60):
    """Return a list or tuple that holds another one twice, and so on: 2 ** levels values in a few hundred bytes."""
    value = kind(['a'])
    for _ in range(levels):
        value = kind([value, value])
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize('in_zip', [True, False])
@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (doubled(list) + b')R', 'it describes more than 134,217,728 values'),  # PyTorch writes it into its error
        (doubled(list) + b')\x81', 'it describes more than 134,217,728 values'),
        (b'}' + doubled(tuple) + b'K\x01s', 'it describes more than 134,217,728 values'),  # the hash of a key
        (b'}(X\x01\0\0\0a' + doubled(list) + b'u', 'it describes more than 134,217,728 values'),
        (b']q\0h\0a)R', 'it calls what is no function'),  # a list that holds itself
        (b'X\x01\0\0\0a)R', 'it calls what is no function'),
    ],
)
def test_a_pickle_of_more_values_than_bytes_is_refused_at_once(content, reason, in_zip, tmp_path):
    path = tmp_path / 'doubled.pth'
    content = b'\x80\x02' + content + b'.'
    if in_zip:
        torch.save({}, path)
        with zipfile.ZipFile(path) as old:
            records = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, 'w') as new:
            for name, data in records.items():
                new.writestr(name, content if name.endswith('data.pkl') else data)
    else:
        path.write_bytes(content)
    begin = time.process_time()
    with pytest.raises(pickle.UnpicklingError, match=rf'doubled.pth was not loaded: {reason}, which no model needs'):
        load_safely(path)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    'content', [b'((\x85.', b'\x8d' + b'\xff' * 7 + b'\x00', b'X\xff\xff\xff\xff', b'(a.', b'(K\x01s.']
)
def test_a_damaged_pickle_is_left_to_pytorch(content, tmp_path):
    (tmp_path / 'damaged.pth').write_bytes(b'\x80\x02' + content)
    with pytest.raises((RuntimeError, pickle.UnpicklingError), match=r'damaged\.pth'):
        load_safely(tmp_path / 'damaged.pth')


def test_a_list_that_holds_itself_is_no_reason_to_refuse_a_file(tmp_path):
    content = []
    content.append(content)
    torch.save({'state_dict': {'w': torch.ones(2)}, 'other': content}, tmp_path / 'whole.pth')
    loaded = load_safely(tmp_path / 'whole.pth')
    assert loaded['state_dict']['w'].tolist() == [1, 1] and loaded['other'][0] is loaded['other']
