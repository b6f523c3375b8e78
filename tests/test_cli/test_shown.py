"""Control characters in the names of files: no message of the package contains a path in its raw form."""

import ast
from pathlib import Path

import pytest

from mmdefmamba.files import say, shown, shown_lines

PACKAGE = Path(__file__).parents[2] / 'mmdefmamba'
#: Names of variables, attributes, keys and functions that stand for paths.
PATHS = {
    *('ann_file', 'annotation_file', 'checkpoint', 'config', 'cwd', 'data_prefix', 'data_root', 'details', 'file'),
    *(
        'file_name',
        'filename',
        'filepath',
        'folder',
        'folders',
        'img_path',
        'img_prefix',
        'label_map',
        'loaded_file',
        'log_dir',
    ),
    *('out', 'out_dir', 'path', 'paths', 'seg_map_path', 'source', 'target', 'url', 'work_dir'),
}
#: What is no message, or no path.
NO_MESSAGES = {
    'app/html.py': ['source'],  # the data of a picture
    'engine/agreement.py': ['path'] * 2,  # the place of a value in a config
    'guards/config_keys.py': ["'.'.join(path)"],
    'guards/custom_keys.py': ["'.'.join(path)"],
    'ops/native/library.py': ['path'],  # a file of the package
    'paper/ablation_runs.py': ["rows[0]['config']"],  # the title of a column
    'quickstart/scenes.py': ['work_dir'],  # a setting of a config
}
#: These escape all that they are given.
ESCAPING = ('say', 'shown', 'shown_lines', 'shorten', 'tell_error')
HOSTILE = 'a\x1b[2J\u202e\nb\udcff'
SHOWN = r'a\x1b[2J\u202e\nb\udcff'


def raw_paths(tree):
    """Yield (line, text) of each path in an f-string that is written neither by ``shown`` nor by ``!r``."""
    escaped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') in ESCAPING
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        raw = isinstance(node, ast.FormattedValue) and node not in escaped and node.conversion == -1
        if raw and PATHS & set(named(node.value)):
            yield node.lineno, ast.unparse(node.value)


def named(node):
    """Yield the names that say what an expression is."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Subscript):
        yield from [node.slice.value] if isinstance(node.slice, ast.Constant) else named(node.slice)
    elif isinstance(node, (ast.BinOp, ast.BoolOp, ast.IfExp)):
        for part in ast.iter_child_nodes(node):
            yield from named(part)
    elif isinstance(node, ast.Call):
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        if name in ('get', 'join', 'map', 'str', 'Path') and 'shown' not in ast.unparse(node):
            for argument in node.args:
                yield from [argument.value] if isinstance(argument, ast.Constant) else named(argument)
        yield name


def test_raw_paths_are_found():
    source = """
f'{path}', f'{self.file}', f'{info["img_path"]}', f'{info.get("img_path")}', f'{", ".join(map(str, paths))}'
f'{Path.cwd()}', f'{folder / "x"}', f'{args.out or "none"}', f'{a if b else path}', f'{str(path)}'
f'{path!r}', f'{shown(path)}', shown(f'{path}'), f'{", ".join(map(shown, paths))}', f'{len(paths)}', f'{name}'
"""
    assert [line for line, _ in raw_paths(ast.parse(source))] == [2] * 5 + [3] * 5


def test_no_message_contains_a_raw_path():
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        name = str(path.relative_to(PACKAGE))
        raw = [text for _, text in raw_paths(ast.parse(path.read_text()))]
        if sorted(raw) != sorted(NO_MESSAGES.get(name, [])):
            found[name] = raw
    assert found == {}, 'write paths in messages with mmdefmamba.files.shown, or with !r'


def test_the_package_prints_by_say_and_parses_by_its_own_parser():
    allowed = {'print': {'files.py', 'cli/program.py', 'ops/native/compile.py'}, 'ArgumentParser': set()}
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
                method = isinstance(node.func, ast.Attribute) and name == 'print'
                assert method or str(path.relative_to(PACKAGE)) in allowed.get(name, {str(path.relative_to(PACKAGE))})


@pytest.mark.parametrize('tool', sorted((PACKAGE.parent / 'tools').rglob('*.py')), ids=lambda path: path.stem)
def test_each_tool_runs_its_main_by_run(tool):
    lines = tool.read_text().splitlines()
    assert lines[-2:] == ["if __name__ == '__main__':", '    run(main)']
    assert lines[2].startswith('from mmdefmamba.cli.') and len(lines) == 7


def test_shown_escapes_what_terminals_obey(capsys):
    assert shown(HOSTILE) == shown(Path(HOSTILE)) == SHOWN
    assert shown('\t\r\x00\x7f\x9b\u200b\u2028\u2066é日 ') == r'\t\r\x00\x7f\x9b\u200b\u2028\u2066é日 '
    assert shown_lines('a\n\tb\x1b') == 'a\n\tb\\x1b'
    say(HOSTILE, Path(HOSTILE), 3)
    assert capsys.readouterr().out == f'{SHOWN}\n{SHOWN}\n3\n'
