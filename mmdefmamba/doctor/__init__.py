"""Is this environment broken, and is it slow? Each section of the answer runs in a process of its own.

So a library that raises, hangs or crashes the interpreter when it is imported becomes a line of the report. This
package and its modules import the standard library alone; what else a section needs, it imports while it runs.

- ``sections``: the processes, and what they report.
- ``packages``, ``machine``, ``backends``, ``self_test``, ``speed``: one section or two each.
"""

from .sections import SECTIONS, examine

__all__ = ['SECTIONS', 'examine']
