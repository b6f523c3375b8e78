"""The doctor finds what is broken, says what is slow, and does not break itself."""

import json
import os
import sys
from collections import namedtuple

import pytest
import torch

from mmdefmamba.cli import doctor as cli
from mmdefmamba.doctor import backends, machine, packages, sections, self_test, speed
from mmdefmamba.ops.sequence_scan import interface

HEAVY = (
    'torch',
    'torchvision',
    'triton',
    'cv2',
    'pycocotools',
    'sklearn',
    'mmengine',
    'mmcv',
    'mmpretrain',
    'mmdet',
    'mmseg',
)


def lines_of(section, **options):
    """Run a section in this process; return its lines without the steps."""
    lines = []
    section(sections.Report(lines.append), **options)
    return [line for line in lines if line[0] != sections.STEP]


def texts(lines, kind):
    return [line[1] for line in lines if line[0] == kind]


@pytest.fixture(autouse=True)
def without_interpreter(monkeypatch):
    """Triton's interpreter, which the other tests switch on, takes seconds for each scan."""
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    monkeypatch.setitem(interface.BACKENDS, 'triton', (None, lambda u, states: 'it is left out of this test'))


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return ``write(module=source)``, which puts modules before all others; without arguments empty heavy ones."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(**modules):
        for name, source in (dict.fromkeys(HEAVY, '') | modules).items():
            (tmp_path / f'{name}.py').write_text(source)

    return write


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Return ``write(name, version, *requirements)``, which puts the metadata of a distribution before all others."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, version, *requirements):
        folder = tmp_path / f'{name.replace("-", "_")}-{version}.dist-info'
        folder.mkdir()
        text = [f'Name: {name}', *([f'Version: {version}'] if version else [])]
        text += [f'Requires-Dist: {requirement}' for requirement in requirements]
        (folder / 'METADATA').write_text('\n'.join(['Metadata-Version: 2.1', *text, '']))

    return write


# -- Environments that are broken.


def test_libraries_that_raise_exit_and_crash_are_findings_and_the_others_are_still_tried(fake):
    fake(
        torchvision='raise RuntimeError("operator torchvision::nms does not exist")',
        mmcv='import sys; sys.exit("no")',
        mmdet='import os, signal; print("noise"); os.kill(os.getpid(), signal.SIGSEGV)',
        mmpretrain='import a_missing_module',
    )
    lines = sections.examine(['imports'])['imports']
    problems = '\n'.join(texts(lines, sections.PROBLEM))
    assert 'import torchvision fails: RuntimeError: operator torchvision::nms does not exist' in problems
    assert f'{os.sep}torchvision.py:1)' in problems
    assert 'import mmcv fails: SystemExit: no' in problems
    assert 'import mmpretrain.models fails: ModuleNotFoundError' in problems
    assert 'the process was ended by signal 11 during: import mmdet.models' in problems
    facts = {line[1]: line[2] for line in lines if line[0] == sections.FACT}
    assert facts['numpy'] == facts['torch'] == 'can be imported' and facts['torchvision'] == 'cannot be imported'
    assert 'mmseg.models' in facts and 'mend mmcv_ops' in facts  # what comes after the crash


def test_a_library_that_hangs_is_ended_and_the_next_ones_are_tried(fake, monkeypatch):
    fake(cv2='import time; time.sleep(100)', mmengine='raise OSError("after the hanging one")')
    monkeypatch.setitem(sections.SECTIONS, 'imports', ('packages', 8))
    problems = texts(sections.examine(['imports'])['imports'], sections.PROBLEM)
    assert any(text.startswith('the process took longer than 8 s during: import cv2') for text in problems)
    assert any('after the hanging one' in text for text in problems)


def test_without_a_usable_torch_the_doctor_still_answers(fake, capsys):
    fake(torch='raise ImportError("libcudart.so.13: cannot open shared object file")')
    assert cli.main(['--json', '--seconds', '0']) == cli.PROBLEMS
    answer = json.loads(capsys.readouterr().out)
    assert answer['exit_code'] == 1 and set(answer['sections']) == set(sections.SECTIONS)
    about = {found['section'] for found in answer['problems'] if 'libcudart.so.13' in found['text']}
    assert about == {'imports', 'devices', 'backends', 'self_test', 'speed'}
    assert answer['sections']['machine']['CPU'] and answer['sections']['packages']['Python']


def test_the_text_has_every_section_and_numbers_the_findings(monkeypatch, capsys):
    def examine(names, options, on_section):
        reports = {name: [['fact', 'a', name]] for name in names}
        reports['machine'] += [['problem', 'first'], ['note', 'perhaps']]
        for name in names:
            on_section(name, reports[name])
        return reports

    monkeypatch.setattr(cli, 'examine', examine)
    assert cli.main(['--no-speed']) == cli.PROBLEMS
    out = capsys.readouterr().out
    assert 'Problems\n  1. Machine: first' in out and 'Notes\n  1. Machine: perhaps' in out
    assert out.endswith('1 problem (exit code 1)\n') and 'Speed' not in out and 'Self-test' in out


@pytest.mark.parametrize(
    ('lines', 'code'),
    [
        ([['fact', 'slow', False]], cli.FINE),
        ([['fact', 'slow', True], ['note', 'slow']], cli.SLOW),
        ([['fact', 'slow', True], ['problem', 'broken']], cli.PROBLEMS),
        ([['note', 'perhaps']], cli.FINE),
    ],
    ids=str,
)
def test_exit_code(lines, code, monkeypatch, capsys):
    monkeypatch.setattr(cli, 'examine', lambda *args: {'speed': lines})
    assert cli.main(['--json']) == code == json.loads(capsys.readouterr().out)['exit_code']


# -- Packages.


def test_distributions_that_overwrite_each_other(distribution):
    distribution('mmcv', '2.2.0')
    distribution('mmcv-lite', '2.1.0')
    distribution('opencv-python', '4.9.0')
    distribution('opencv-python-headless', '4.10.0')
    lines = lines_of(packages.packages)
    problems = '\n'.join(texts(lines, sections.PROBLEM))
    assert 'mmcv-lite 2.1.0 and mmcv 2.2.0 all have the module mmcv' in problems
    assert 'pip uninstall opencv-python opencv-python-headless' in problems
    assert ['fact', 'mmcv', '2.1.0 (mmcv-lite), 2.2.0 (mmcv)'] in lines


def test_versions_that_do_not_fit(distribution):
    distribution('torch', '2.14.1+cu130')
    distribution('torchvision', '0.28.0+cpu', 'torch==2.13.0')
    distribution('an-old-library', '1.0', 'numpy<2', 'protobuf<4; extra == "more"')
    lines = lines_of(packages.packages)
    problems = '\n'.join(texts(lines, sections.PROBLEM))
    assert 'torch 2.14.1+cu130 and torchvision 0.28.0+cpu were built for different devices' in problems
    assert 'torchvision 0.28.0+cpu needs torch==2.13.0, but torch 2.14.1+cu130 is installed' in problems
    notes = [text for text in texts(lines, sections.NOTE) if 'an-old-library' in text]
    assert len(notes) == 1 and notes[0].startswith('an-old-library 1.0 needs numpy<2, but numpy ')


def test_metadata_that_was_cut_short(distribution):
    distribution('mmengine', '')
    assert any(
        'the metadata of mmengine has no version' in text for text in texts(lines_of(packages.packages), 'problem')
    )


# -- Machine.


def test_limits_of_a_container_and_threads(monkeypatch):
    usage = namedtuple('usage', 'total used free')
    monkeypatch.setattr(machine.shutil, 'disk_usage', lambda folder: usage(2**26, 0, 2**26))
    monkeypatch.setattr(machine, 'usable_cores', lambda: 2)
    monkeypatch.setenv('OMP_NUM_THREADS', '64')
    lines = lines_of(machine.machine)
    if os.path.isdir('/dev/shm'):
        assert any('/dev/shm has 64 MiB free' in text for text in texts(lines, sections.PROBLEM))
    notes = '\n'.join(texts(lines, sections.NOTE))
    assert 'OMP_NUM_THREADS=64, but 2 cores are usable' in notes and '64 MiB free: checkpoints need more' in notes


def test_a_gpu_that_pytorch_cannot_use(monkeypatch):
    monkeypatch.setattr(machine, '_driver', lambda report: '470.1')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.version, 'cuda', None)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert texts(lines_of(machine.devices), sections.PROBLEM) == [
        'there is a GPU with driver 470.1, which PyTorch cannot use: this PyTorch is a build for CPUs'
    ]


# -- Backends.


def test_every_backend_is_named_with_its_reason(monkeypatch):
    monkeypatch.setattr(backends.sys, 'platform', 'linux')
    monkeypatch.setattr(backends.platform, 'machine', lambda: 'x86_64')
    from mmdefmamba.ops.native import library

    monkeypatch.setattr(library, 'LIBRARY', None)
    monkeypatch.setattr(library, 'REASON', 'the kernels were not built: no compiler')
    lines = lines_of(backends.backends)
    facts = {line[1]: line[2] for line in lines if line[0] == sections.FACT}
    assert {f'{name} on cpu' for name in interface.BACKENDS} <= set(facts)
    assert facts['native on cpu'] == 'cannot run: the kernels were not built: no compiler'
    assert facts['auto on cpu'].startswith('blockwise (') and facts['mamba_ssm on cpu'].startswith(
        'cannot run: it needs'
    )
    assert any('5 to 10 times as long on the CPU: the kernels were not built' in t for t in texts(lines, 'problem'))


def test_the_self_test_passes_here():
    lines = lines_of(self_test.self_test, seconds=0)
    assert texts(lines, sections.PROBLEM) == []
    tested = [line[1] for line in lines]
    assert tested[:2] == ['reference on cpu', 'blockwise on cpu'] and all('3 scans' in line[2] for line in lines)


@pytest.mark.parametrize('what', ['result', 'gradient', 'nan', 'late'])
def test_the_self_test_fails_where_a_backend_is_wrong(what, monkeypatch):
    right, available = interface.BACKENDS['blockwise']

    def wrong(u, delta, A, *rest):
        if what == 'result':
            return right(u, delta, A, *rest) * (1 + 1e-4)
        if what == 'gradient':
            return right(u, delta, A + 1e-3 * (A - A.detach()), *rest)
        y = right(u, delta, A, *rest)
        return y * torch.nan if what == 'nan' or (what == 'late' and u.dtype == torch.bfloat16) else y

    monkeypatch.setitem(interface.BACKENDS, 'blockwise', (wrong, available))
    problems = texts(lines_of(self_test.self_test, seconds=0), sections.PROBLEM)
    assert problems and all(text.startswith('backend blockwise on cpu computes wrong numbers: ') for text in problems)
    assert ('the gradient of A' in problems[0]) == (what == 'gradient')
    assert ('in bfloat16' in problems[0]) == (what == 'late')


def test_a_wrong_backend_ends_the_program_with_problems(tmp_path, monkeypatch, capsys):
    """The whole way: a process whose blockwise backend is wrong."""
    (tmp_path / 'sitecustomize.py').write_text(
        'from mmdefmamba.on_import import call_after_import\n'
        'def spoil(interface):\n'
        '    right, available = interface.BACKENDS["blockwise"]\n'
        '    interface.BACKENDS["blockwise"] = (lambda *args: right(*args) * 1.01, available)\n'
        'call_after_import("mmdefmamba.ops.sequence_scan.interface", spoil)\n'
    )
    root = os.path.dirname(os.path.dirname(cli.__file__))
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), os.path.dirname(root)]))
    monkeypatch.setattr(cli, 'SECTIONS', ('self_test',))
    assert cli.main(['--seconds', '0', '--no-speed']) == cli.PROBLEMS
    assert 'backend blockwise on cpu computes wrong numbers' in capsys.readouterr().out


# -- Speed.


@pytest.mark.parametrize(
    ('expected', 'slow', 'text'),
    [
        ({'low': 1e9, 'high': 2e9}, True, 'slower than expected here'),
        ({'low': 0.0, 'high': 1e9}, False, ''),
        (None, None, ''),
    ],
    ids=['slow', 'fine', 'not known'],
)
def test_speed_against_swin(expected, slow, text, monkeypatch):
    pytest.importorskip('torchvision')
    monkeypatch.setattr(speed, 'SIZE', 32)
    monkeypatch.setattr(speed, 'CPU_BATCH', 1)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    capability = torch.backends.cpu.get_cpu_capability()
    ranges = {} if expected is None else {capability: ('?', expected['low'], expected['high'])}
    monkeypatch.setattr(speed, 'EXPECTED', ranges)
    threads = torch.get_num_threads()
    lines = lines_of(speed.speed, rounds=1)
    torch.set_num_threads(threads)
    facts = {line[1]: line[2] for line in lines if line[0] == sections.FACT}
    assert facts.get('slow') is slow and facts['ratio'] > 0
    assert any(text in note for note in texts(lines, sections.NOTE)) if text else not texts(lines, sections.NOTE)
    assert ('not known' in facts['expected']) == (expected is None)


def test_the_doctor_imports_the_standard_library_alone(run_python):
    out, _ = run_python(
        'import sys, mmdefmamba.cli.doctor\n'
        'from mmdefmamba.doctor import backends, machine, packages, self_test, speed\n'
        'print([name for name in ("torch", "numpy", "mmengine", "torchvision", "packaging") if name in sys.modules])'
    )
    assert out.strip() == '[]'


def test_wrong_options_are_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(['--seconds', '-1'])
    assert ended.value.code == 2 and 'must be 0 or more seconds, got -1' in capsys.readouterr().err
    assert sys.modules['mmdefmamba.cli.doctor'].SLOW not in (0, 1, 2)
