"""docs/robustness.md promises nothing that no test looks at."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = re.findall(r'^\| (?!input|-)(.*) \|$', (TESTS.parent / 'docs/robustness.md').read_text(), re.MULTILINE)


def backing(row):
    """Path and function of the test that a row names."""
    match = re.fullmatch(r'`(\S+\.py)::(\w+)`', row.split(' | ')[-1])
    assert match, f'names no test: {row}'
    return TESTS / ('' if '/' in match[1] else 'test_bad_input') / match[1], match[2]


def test_every_row_names_a_test():
    assert len(ROWS) > 40
    for row in ROWS:
        path, function = backing(row)
        names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert function in names, f'{path.name} has no {function}'


def test_every_test_of_bad_input_backs_a_row():
    named = {backing(row) for row in ROWS}
    for path in sorted((TESTS / 'test_bad_input').glob('test_*.py')):
        if path.name == Path(__file__).name:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
                assert (path, node.name) in named, f'{path.name}::{node.name} is in no row of docs/robustness.md'
