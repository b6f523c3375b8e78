"""Load many damaged and hostile files, as tools/infer.py, the page and a training load them, in processes with limits.

    python benchmarks/mutate_files.py images --count 10000 --seed 0
    python benchmarks/mutate_files.py checkpoints --count 10000 --seed 0
    python benchmarks/mutate_files.py safetensors --count 10000 --seed 0
    python benchmarks/mutate_files.py onnx --count 2000 --seed 0

Each file is made from a whole one: bits are flipped, its end is cut off, parts of another file are put in, and its
header or its structure is changed. A file is fine if it loads, or ends in an error of the expected type, of at most
2,000 characters, that names it. It is a finding if it ends the process, runs longer than the limit, needs more memory
than the limit, runs code, or raises anything else. The script prints how often each outcome occurred, names the
findings by their number, and exits with 1 if there are any. `--only NUMBER` repeats one and keeps its file.
"""

import argparse
import io
import json
import os
import pickle
import random
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path

MEMORY, SECONDS, LONGEST = 6 * 2**30, 20, 2000
SIZES = (0, 1, 2, 255, 16_000, 65_535, 100_000, 2**31 - 1, 2**32 - 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('--count', type=int, default=200)
    parser.add_argument('--first', type=int, default=0, help='number of the first file')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only', type=int, help='load this file alone, and keep it')
    parser.add_argument('--child', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args)
    if args.only is not None:
        args.first, args.count = args.only, 1
    folder, start = Path(tempfile.mkdtemp()), time.monotonic()
    outcomes, findings, peak = run(args, folder)
    if args.only is None:
        shutil.rmtree(folder)
    else:
        print(f'the file is in {folder}')
    print(f'{args.count} {args.kind}, seed {args.seed}, from number {args.first}: {time.monotonic() - start:.0f} s')
    print(f'largest memory of a process: {peak / 2**20:.2f} GiB')
    for outcome, number in outcomes.most_common():
        print(f'{number:6} {outcome}')
    print(f'{len(findings)} findings')
    for line in findings:
        print(f'  {line}')
    return 1 if findings else 0


def run(args, folder):
    """Load the files in child processes, one after another; a new one follows where one has ended."""
    outcomes, findings, number, end = Counter(), [], args.first, args.first + args.count
    while number < end:
        command = [sys.executable, __file__, args.kind, '--seed', args.seed, '--first', number, '--count', end - number]
        log = open(folder / 'stderr', 'w+')  # noqa: SIM115
        process = subprocess.Popen(
            [*map(str, command), '--child', str(folder)],
            stdout=subprocess.PIPE,
            stderr=log if args.only is None else None,
            bufsize=0,
            start_new_session=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        limit = 600  # for the imports, on a busy machine
        while select.select([process.stdout], [], [], limit)[0]:
            line = process.stdout.readline().decode().rstrip('\n')
            if not line or line == 'end':
                break
            limit = SECONDS
            if line.startswith('next '):
                number = int(line.removeprefix('next '))
                continue
            if '\t' not in line:
                continue
            outcome, finding = line.split('\t')
            outcomes[outcome] += 1
            findings += [f'{number}: {finding}'] if finding else []
            number += 1
        else:
            findings.append(f'{number}: no end after {limit} s')
            os.killpg(process.pid, signal.SIGKILL)
            outcomes['no end'] += 1
            number += 1
            process.wait()
            continue
        process.wait()
        tail = (folder / 'stderr').read_text(errors='replace')[-300:]
        if line != 'end':
            outcomes['the process ended'] += 1
            findings.append(f'{number}: the process ended with {process.returncode}: {tail!r}')
            number += 1
    return outcomes, findings, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def child(args):
    """Load files, and print the outcome of each: its name, a tab, and the finding if it is one."""
    os.environ.setdefault('WHOLE', str(args.child / 'whole'))  # of onnx, which takes a minute to make
    make, load, expected = KINDS[args.kind]()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    report, sys.stdout = sys.stdout, sys.stderr
    canary = args.child / 'canary'
    os.environ['CANARY'] = str(canary)
    for number in range(args.first, args.first + args.count):
        print('next', number, file=report, flush=True)
        path = args.child / f'case.{args.kind}'
        path.write_bytes(make(random.Random(f'{args.seed} {number}'), str(canary)))
        outcome, finding = 'loaded', ''
        try:
            load(path)
        except expected as error:
            outcome, text = type(error).__name__, str(error)
            if len(text) > LONGEST:
                finding = f'an error of {len(text)} characters'
            elif path.name not in text:
                finding = f'an error that does not name the file: {text[:200]!r}'
        except BaseException as error:
            outcome = type(error).__name__
            finding = f'{outcome}: {str(error)[:300]!r}'
        if canary.exists():
            finding, _ = 'code ran', canary.unlink()
        print(f'{outcome}\t{finding}', file=report, flush=True)
    print('end', file=report, flush=True)


def damage(content, other, draw):
    """Return the bytes of a file with one kind of damage that needs no knowledge of its format."""
    content, size = bytearray(content), max(len(content), 1)
    kind = draw.choice(('flip', 'flip', 'head', 'cut', 'splice', 'insert', 'zero', 'repeat', 'number'))
    place = draw.randrange(size)
    if kind in ('flip', 'head'):
        for _ in range(draw.choice((1, 1, 2, 5, 20))):
            at = draw.randrange(min(size, 200) if kind == 'head' else size)
            if at < len(content):
                content[at] ^= 1 << draw.randrange(8)
    elif kind == 'cut':
        del content[place:]
    elif kind == 'splice':
        start = draw.randrange(max(len(other), 1))
        content[place : place + draw.randrange(200)] = other[start : start + draw.randrange(200)]
    elif kind == 'insert':
        content[place:place] = draw.randbytes(draw.randrange(1, 40))
    elif kind == 'zero':
        content[place : place + 8] = bytes(8)
    elif kind == 'repeat':
        content[place:place] = content[place : place + draw.randrange(100)]
    else:
        content[place : place + 4] = struct.pack(draw.choice('<>') + 'I', draw.choice(SIZES))
    return bytes(content)


def images():
    """Images of all formats that are read: the steps of infer.py, of the page and of a training."""
    import numpy as np
    from mmcv.transforms import LoadImageFromFile
    from PIL import Image

    from mmdefmamba.apis.zoo import load_config
    from mmdefmamba.app.uploads import UploadError, load_upload
    from mmdefmamba.guards.loading import active_guards
    from mmdefmamba.visualization.inputs import ImageReader

    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    second = [rgb.rotate(180)]
    wholes = []
    for image, kind, options in (
        *((rgb, kind, {}) for kind in ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'PPM', 'TIFF')),
        *((rgb.convert(mode), 'PNG', {}) for mode in ('P', 'L', '1', 'LA')),
        *((rgb.convert(mode), 'BMP', {}) for mode in ('P', 'L')),
        *((rgb, 'TIFF', {'compression': name}) for name in ('tiff_lzw', 'tiff_adobe_deflate', 'packbits', 'jpeg')),
        (rgba, 'PNG', {}),
        (deep, 'PNG', {}),
        (deep, 'TIFF', {}),
        (rgb, 'JPEG', {'progressive': True, 'exif': b'Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0'}),
        (rgb.convert('CMYK'), 'JPEG', {}),
        (rgba, 'WEBP', {'lossless': True}),
        *((rgb, kind, {'save_all': True, 'append_images': second}) for kind in ('WEBP', 'GIF', 'TIFF')),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        wholes.append(file.getvalue())

    def make(draw, canary):
        content = draw.choice(wholes)
        for _ in range(draw.choice((1, 1, 2, 3))):
            if content.startswith(b'\x89PNG') and draw.random() < 0.4:
                content = _change_png(content, draw)
            else:
                content = damage(content, draw.choice(wholes), draw)
        return content

    reader = ImageReader(load_config('defmamba_pico_digits'))
    step = LoadImageFromFile()
    guards = active_guards()
    guards.__enter__()

    def load(path):
        errors = []
        for function in (reader, load_upload, lambda path: step({'img_path': str(path)})):
            try:
                function(path)
            except UploadError:  # its text is for the visitor, and names no file
                pass
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    load.guards = guards  # or they would end with this function
    return make, load, (OSError,)


def _change_png(content, draw):
    """Change a field of a chunk of a PNG and correct its checksum, so that decoders believe it."""
    at, chunks = 8, []
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], 'big')
        chunks.append((content[at + 4 : at + 8], bytearray(content[at + 8 : at + 8 + length])))
        at += 12 + length
    kind, data = draw.choice(chunks[:2] or [(b'IHDR', bytearray(13))])
    if kind == b'IHDR' and len(data) >= 13 and draw.random() < 0.7:
        struct.pack_into('>I', data, draw.choice((0, 4)), draw.choice((*SIZES, draw.randrange(1, 20_000))))
    elif data:
        data[draw.randrange(len(data))] = draw.randrange(256)
    else:
        chunks.insert(draw.randrange(len(chunks) + 1), (b'zTXt', bytearray(draw.randbytes(20))))
    return content[:8] + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data)) for name, data in chunks
    )


class _Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def checkpoints():
    """Checkpoints in all forms that are read: loading, comparing with a model, resuming."""
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.runner.checkpoint import CheckpointLoader

    from mmdefmamba.checkpoints import fit, state_dict_of
    from mmdefmamba.checkpoints.fit import not_finite
    from mmdefmamba.checkpoints.resuming import _damage
    from mmdefmamba.guards.class_names import names_in_checkpoint
    from mmdefmamba.models import DefMamba

    torch.manual_seed(0)
    model = DefMamba({'embed_dims': (8, 16), 'depths': (1, 1)})
    weights = model.state_dict()
    optimizer = torch.optim.AdamW(model.parameters())
    history = HistoryBuffer()
    history.update(1.0)

    def whole(**parts):
        return {
            'meta': {'epoch': 1, 'iter': 2, 'cfg': 'a = 1', 'dataset_meta': {'classes': ('a', 'b')}},
            'state_dict': weights,
            'message_hub': {'log_scalars': {'loss': history}, 'runtime_info': {}, 'resumed_keys': {}},
            'optimizer': optimizer.state_dict(),
            **parts,
        }

    def saved(content, **options):
        file = io.BytesIO()
        torch.save(content, file, **options)
        return file.getvalue()

    forms = (
        lambda content: saved(content),
        lambda content: saved(content, _use_new_zipfile_serialization=False),
        lambda content: saved(content, pickle_protocol=4),
    )
    wholes = [*(form(whole()) for form in forms), saved(weights), pickle.dumps(whole(state_dict={}, message_hub={}))]

    def odd(draw, depth=0):
        """Return a value that a checkpoint should not have in that place."""
        choices = [
            lambda: draw.choice((None, True, -1, 3, 10**30, float('nan'), 'text', b'bytes', '', 2j, range(9))),
            lambda: draw.choice(('\x1b[2J', '\u202e', 'x' * 5000, 'a\nerror: b')),
            lambda: draw.choice(
                (torch.zeros(2), torch.zeros(1).expand(2**20, 2**20), torch.zeros(2, dtype=torch.complex64))
            ),
            lambda: draw.choice((torch.eye(2).to_sparse(), torch.eye(2, device='meta'), torch.tensor(float('nan')))),
            lambda: _Call(os.system, f'touch {os.environ["CANARY"]}'),
            lambda: _Call(*draw.choice(((list, range(10**9)), (bytes, 10**14), (str, [1]), (eval, '1')))),
        ]
        if depth < 40:
            choices += [lambda: [odd(draw, depth + 1)] * draw.choice((1, 2)), lambda: {'classes': odd(draw, depth + 1)}]
            choices += [lambda: (odd(draw, depth + 1), odd(draw, depth + 1))]
        return draw.choice(choices)()

    def make(draw, canary):
        kind = draw.choice(('bytes', 'bytes', 'value', 'zip', 'pickle'))
        content = draw.choice(wholes)
        if kind == 'value':
            content = draw.choice(forms)(_with_odd(whole(), odd, draw))
        elif kind == 'bytes':
            for _ in range(draw.choice((1, 1, 2, 4))):
                content = damage(content, draw.choice(wholes), draw)
        else:
            content = _change_zip(wholes[draw.choice((0, 2))], kind, draw, canary)
        return content

    def load(path):
        errors = []
        try:
            content = CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')
            state = state_dict_of(content, str(path))
            str(fit(model, state)), not_finite(model, state), names_in_checkpoint(content)
        except expected as error:
            errors.append(error)
        _damage(path)
        if errors:
            raise errors[0]

    expected = (OSError, ValueError, RuntimeError, pickle.UnpicklingError)
    return make, load, expected


def safetensors():
    """Checkpoints of safetensors: loading, and comparing with a model."""
    import torch
    from mmengine.runner.checkpoint import CheckpointLoader

    from mmdefmamba.checkpoints import fit, state_dict_of
    from mmdefmamba.checkpoints.fit import not_finite
    from mmdefmamba.guards.class_names import names_in_checkpoint
    from mmdefmamba.models import DefMamba
    from mmdefmamba.tensor_files import write_tensor_file

    torch.manual_seed(0)
    model = DefMamba({'embed_dims': (8, 16), 'depths': (1, 1)})
    wholes = []
    with tempfile.TemporaryDirectory() as folder:
        for meta in (None, {'epoch': 1, 'iter': 2, 'dataset_meta': {'classes': ('a', 'b')}}):
            write_tensor_file(Path(folder, 'whole'), model.state_dict(), meta)
            wholes.append(Path(folder, 'whole').read_bytes())

    def make(draw, canary):
        content = draw.choice(wholes)
        if draw.random() < 0.5:
            return _change_header(content, draw)
        for _ in range(draw.choice((1, 1, 2, 4))):
            content = damage(content, draw.choice(wholes), draw)
        return content

    def load(path):
        content = CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')
        state = state_dict_of(content, str(path))
        str(fit(model, state)), not_finite(model, state), names_in_checkpoint(content)

    return make, load, (OSError, ValueError, RuntimeError, pickle.UnpicklingError)


def _change_header(content, draw):
    """Write the header of a file of safetensors anew with odd values: it is JSON."""
    length = int.from_bytes(content[:8], 'little')
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    name = draw.choice(list(header))
    odd = draw.choice((None, 0, -1, 2**63, 'x', [], {}, [0, 2**40], [[]], 'F64', 'C64', 'F8_E4M3', '\x1b[2J', 1e300))
    entry = header[name]
    kind = draw.random()
    if kind < 0.4:
        entry[draw.choice((*entry, 'new'))] = odd
    elif kind < 0.6:
        meta = header.setdefault('__metadata__', {})
        nested = '[' * 100_000 if draw.random() < 0.2 else json.dumps({'dataset_meta': {'classes': odd}, 'epoch': odd})
        meta['meta'] = draw.choice((nested, '{', 'null', '[]', odd))
    elif kind < 0.8:
        header[draw.choice(('\x1b]0;x\x07', '\u202e', 'x' * 5000, ''))] = header.pop(name)
    else:
        header[name] = odd
    text = json.dumps(header).encode()
    return (len(text) + draw.choice((0, 0, 0, 1, -1, 2**62))).to_bytes(8, 'little') + text + rest


def onnx():
    """ONNX files that tools/export.py wrote: the predictor of tools/infer.py, and a prediction."""
    import numpy as np
    import onnx as library
    import torch

    import mmdefmamba
    from mmdefmamba.apis.onnx_predictor import get_onnx_predictor
    from mmdefmamba.export.export_model import export_model

    whole = Path(os.environ['WHOLE'])
    if not whole.exists():  # children that follow one that has ended take its file
        torch.manual_seed(0)
        cfg = mmdefmamba.apis.zoo.load_config('defmamba_pico_digits')
        cfg.model.backbone.update(arch=dict(embed_dims=(8, 16), depths=(1, 1)), out_indices=1)
        cfg.model.head.in_channels = 16
        export_model(cfg, mmdefmamba.get_model(cfg), whole, shape=(32, 32), check=False)
    whole = whole.read_bytes()
    image = np.zeros((32, 32, 3), np.uint8)

    def make(draw, canary):
        kind = draw.random()
        if kind < 0.3:
            return _change_description(library.load_from_string(whole), draw)
        if kind < 0.6:
            return _change_graph(library.load_from_string(whole), draw)
        content = whole
        for _ in range(draw.choice((1, 1, 2, 4))):
            content = damage(content, whole, draw)
        return content

    def load(path):
        predictor = get_onnx_predictor(path, 'cpu')
        [sample] = predictor.predict([image])
        predictor.describe(sample), predictor.summary(sample), predictor.draw(image, sample)

    return make, load, (OSError, ValueError)


def _change_graph(model, draw):
    """Change the graph of an ONNX file: names, operators, shapes, numbers, and files outside of it."""
    graph = model.graph if draw.random() < 0.7 or not model.functions else draw.choice(list(model.functions))
    node, kind = draw.choice(list(graph.node)), draw.choice(range(8))
    if kind == 0:
        node.op_type = draw.choice(('Loop', 'Scan', 'If', 'EyeLike', 'Range', 'Expand', 'Tile', 'x', ''))
    elif kind == 1 and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice((*draw.choice(list(graph.node)).output, '', 'x'))
    elif kind == 2:
        graph.node.remove(node)
    elif kind == 3 and node.attribute:
        attribute = draw.choice(list(node.attribute))
        attribute.i, attribute.type = draw.choice((-1, 2**31, 2**62)), draw.choice(range(14))
    elif kind == 4:
        node.domain = draw.choice(('com.microsoft', 'mmdefmamba', 'ai.onnx.ml', 'x'))
    elif kind == 5:
        size = draw.choice(list(model.graph.initializer))
        size.dims[:] = draw.choice(((), (-1,), (2**40,), (2**31, 2**31), (0,)))
    elif kind == 6:
        size = draw.choice(list(model.graph.initializer))
        size.ClearField('raw_data')
        size.data_location = 1
        size.external_data.add(key='location', value=draw.choice(('../../etc/passwd', '/etc/passwd', '/dev/zero', 'x')))
        size.external_data.add(key='length', value=draw.choice(('-1', '4', str(2**62), 'x')))
    else:
        size = draw.choice((*model.graph.input, *model.graph.output)).type.tensor_type
        size.elem_type = draw.choice(range(24))
        if draw.random() < 0.5:
            size.shape.ClearField('dim')
    return model.SerializeToString()


def _change_description(model, draw):
    """Change what an ONNX file says about itself: JSON in its metadata."""
    entry = draw.choice(list(model.metadata_props))
    odd = draw.choice((None, True, 0, -1, 10**30, float('nan'), 'x', '\x1b[2J', 'x' * 5000, [], [[]], {}, {'type': 1}))
    try:
        described = json.loads(entry.value)
    except ValueError:
        described = None
    if isinstance(described, dict) and draw.random() < 0.8:
        described[draw.choice([*described, 'new'])] = odd
        entry.value = json.dumps(described)
    else:
        entry.value = draw.choice(('', '{', '[' * 100_000, 'null', '[]', '\x1b[2J', json.dumps(odd)))
    return model.SerializeToString()


def _with_odd(content, odd, draw):
    """Put an odd value at a random place of a checkpoint."""
    content = {key: dict(value) if isinstance(value, dict) else value for key, value in content.items()}
    if draw.random() < 0.3:
        content[draw.choice(list(content))] = odd(draw)
        return content
    part = content[draw.choice(('meta', 'meta', 'state_dict', 'message_hub', 'optimizer'))]
    part[draw.choice([*part, 'new', 3])] = odd(draw)
    if draw.random() < 0.3:
        content['meta']['dataset_meta'] = {draw.choice(('classes', 'PALETTE', 'x')): odd(draw)}
    return content


def _change_zip(content, kind, draw, canary):
    """Write a file of torch.save anew with a changed record, list of contents or pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        names = old.namelist()
        chosen = next(name for name in names if name.endswith('data.pkl')) if kind == 'pickle' else draw.choice(names)
        change = draw.choice(('drop', 'rename', 'twice', 'compress', 'damage', 'other', 'empty'))
        for name in names:
            data, record = old.read(name), zipfile.ZipInfo(name)
            if name == chosen and kind == 'pickle':
                data = _change_pickle(data, draw, canary)
            elif name == chosen:
                if change == 'drop':
                    continue
                record.filename = (
                    draw.choice(('../../x', '/tmp/x', 'a' * 300, name + '\0')) if change == 'rename' else name
                )
                record.compress_type = zipfile.ZIP_DEFLATED if change == 'compress' else zipfile.ZIP_STORED
                data = {'damage': damage(data, content, draw), 'other': old.read(draw.choice(names)), 'empty': b''}.get(
                    change, data
                )
                if change == 'twice':
                    new.writestr(name.replace('data', 'data2'), data)
            new.writestr(record, data)
    return file.getvalue()


def _change_pickle(data, draw, canary):
    """Change the operations of a pickle: hostile calls, others' globals, deep nesting, and damage."""
    call = f'cos\nsystem\n(X{struct.pack("<I", len(canary) + 6).decode("latin1")}touch {canary}tR'.encode('latin1')
    snippets = (
        call, call + b'0', b'X\xff\xff\xff\xff',
        b'cbuiltins\neval\n', b'cbuiltins\ngetattr\n', b'cposix\nsystem\n', b'(' * 500, b']' * 50,
        b'\x85' * 2000, b'(lp0\n', b'ccollections\nCounter\n)R', b'cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R0',
        b'ctorch._utils\n_rebuild_tensor_v2\n', b'Q', b'b', b'R', b'\x93', b'\x81', b'h\xff', b'0',
    )  # fmt: skip
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2))):
        change = draw.random()
        at = draw.choice((2, len(data) - 1, draw.randrange(len(data))))
        if change < 0.6:
            data[at:at] = draw.choice(snippets)
        elif change < 0.8:
            old = draw.choice(
                (b'torch', b'collections', b'mmengine', b'FloatStorage', b'OrderedDict', b'cpu', b'storage')
            )
            data = bytearray(
                bytes(data).replace(old, draw.choice((b'os', b'x', b'builtins', b'cuda:99')), draw.choice((1, 99)))
            )
        else:
            data = bytearray(damage(data, data, draw))
    return bytes(data)


KINDS = {'images': images, 'checkpoints': checkpoints, 'safetensors': safetensors, 'onnx': onnx}

if __name__ == '__main__':
    sys.exit(main())
