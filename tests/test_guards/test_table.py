"""Each row of docs/promises.md names tests that exist, and each test of a guard is listed in a row."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / 'docs/promises.md').read_text()
ROWS = re.findall(r'^\| (?!what goes wrong|promise|-)(.*) \|$', TABLE, re.MULTILINE)


def backing(row):
    """Yield the path and the function name of each test that a row names."""
    names = row.split(' | ')[-1]
    assert re.fullmatch(r'`\S+\.py(::\w+)+`(, `\S+\.py(::\w+)+`)*', names), f'names no test: {row}'
    for path, function in re.findall(r'(\S+\.py)::([\w:]+)', names.replace('`', '')):
        yield TESTS / ('' if '/' in path else 'test_guards') / path, function


def functions(node, prefix=''):
    """Yield the names of the functions in a file, those in classes as ``TestClass::test_function``."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f'{prefix}{child.name}::')


def test_every_row_names_existing_tests():
    assert len(ROWS) > 40
    for row in ROWS:
        for path, function in backing(row):
            names = set(functions(ast.parse(path.read_text())))
            assert function in names, f'{path.name} has no {function}'


def test_every_guard_test_is_listed_in_a_row():
    named = {test for row in ROWS for test in backing(row)}
    for path in sorted((TESTS / 'test_guards').glob('test_*.py')):
        if path.name == Path(__file__).name:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
                assert (path, node.name) in named, f'{path.name}::{node.name} is in no row of docs/promises.md'
