"""What Triton kernels are launched with, and which of their arguments they read and write, without running them."""

import ast
import contextlib
import functools
import inspect
import textwrap
from unittest import mock

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

KERNELS = (JITFunction, InterpretedFunction)
ATOMIC = 'atomic_'


@contextlib.contextmanager
def recorded_launches(record=None):
    """Record launches within the block instead of running kernels; yield a list of (kernel, args, kwargs).

    Args:
        record: a function (kernel, args, kwargs) that is called at each launch.
    """
    launches = []

    def at_grid(self, grid):
        def launch(*args, **kwargs):
            launches.append((self, args, kwargs))
            if record is not None:
                record(self, args, kwargs)

        return launch

    with contextlib.ExitStack() as stack:
        for kind in KERNELS:
            stack.enter_context(mock.patch.object(kind, '__getitem__', at_grid))
        yield launches


@functools.cache
def accesses(kernel):
    """Return the names of the parameters through which a kernel reads memory, and of those through which it writes.

    The source of the kernel and of the device functions that it calls is followed: a parameter is read if it is part of
    the address of a ``tl.load``. Branches are not decided, so an argument counts if any branch uses it.

    Args:
        kernel: a function with ``triton.jit``.

    Returns:
        Two frozensets of names. An atomic operation reads and writes.
    """
    walk = _Walk(kernel.fn)
    return frozenset(walk.loads), frozenset(walk.stores)


class _Walk:
    """The walk over one function. ``origins`` holds, for each local name, the parameters that are part of its value."""

    def __init__(self, function):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        self.globals = function.__globals__
        self.parameters = [argument.arg for argument in definition.args.args]
        self.origins = {name: {name} for name in self.parameters}
        self.loads, self.stores, self.returned = set(), set(), set()
        before = None
        while before != self.origins:  # a loop may carry an address back to its begin
            before = {name: set(found) for name, found in self.origins.items()}
            for statement in definition.body:
                self.visit(statement)

    def visit(self, node):
        """Return the parameters that are part of the value of an expression."""
        method = getattr(self, f'visit_{type(node).__name__}', None)
        if method is not None:
            return method(node)
        return set().union(*map(self.visit, ast.iter_child_nodes(node)))

    def visit_Name(self, node):
        return self.origins.get(node.id, set())

    def visit_Attribute(self, node):
        return set() if node.attr in ('dtype', 'shape') else self.visit(node.value)

    def visit_Return(self, node):
        if node.value is not None:
            self.returned |= self.visit(node.value)
        return set()

    def visit_Assign(self, node):
        for target in node.targets:
            self._assign(target, node.value)
        return set()

    def visit_AugAssign(self, node):
        self._assign(node.target, node.value)
        return set()

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self._assign(node.target, node.value)
        return set()

    def _assign(self, target, value):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, of in zip(target.elts, value.elts, strict=True):
                self._assign(one, of)
            return
        found = self.visit(value)
        for name in ast.walk(target):
            if isinstance(name, ast.Name):
                self.origins[name.id] = self.origins.get(name.id, set()) | found

    def visit_Call(self, node):
        arguments = [self.visit(argument) for argument in node.args]
        named = {keyword.arg: self.visit(keyword.value) for keyword in node.keywords}
        function = node.func
        device_function = self.globals.get(function.id) if isinstance(function, ast.Name) else None
        if isinstance(device_function, KERNELS):
            return self._call(_walk(device_function), arguments, named)
        name = function.attr if isinstance(function, ast.Attribute) else ''
        everything = set().union(*arguments, *named.values())
        if name in ('load', 'store', 'gather', 'scatter') or name.startswith(ATOMIC):
            base = self.visit(function.value)  # of a tensor descriptor; empty for tl.load
            address = base or (arguments[0] if arguments else named.get('pointer', set()))
            if name in ('load', 'gather') or name.startswith(ATOMIC):
                self.loads |= address
            if name in ('store', 'scatter') or name.startswith(ATOMIC):
                self.stores |= address
            return set()
        return everything | self.visit(function)

    def _call(self, walk, arguments, named):
        given = dict(zip(walk.parameters, arguments, strict=False), **named)

        def of(names):
            return set().union(*(given.get(name, set()) for name in names))

        self.loads |= of(walk.loads)
        self.stores |= of(walk.stores)
        return of(walk.returned)


@functools.cache
def _walk(device_function):
    return _Walk(device_function.fn)
