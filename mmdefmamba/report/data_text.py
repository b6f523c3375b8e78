"""The result of a check of data as text, and the tables that the text and the page share."""

from itertools import zip_longest

from ..files import shown

ROWS = 40  # the text shows at most so many classes; the page shows all


def facts(part):
    """Return rows of (name, text) about a :class:`~mmdefmamba.report.data_check.PartSummary`."""
    rows = [('images', str(len(part.dataset)))]
    if part.sizes is not None:
        height, width = (f'{low} to {high}, median {middle}' for low, middle, high in part.sizes[1:])
        rows.append(('sizes', f'height {height}; width {width} (pixels; {part.sizes.read} files read)'))
    return rows


def count_table(check):
    """Return the header and the rows of a table with one row per class and one column per split and unit."""
    names = next((part.classes for part in check.parts if part.classes), [])
    columns = [(part, unit, counts) for part in check.parts for unit, counts in part.counts.items()]
    header = ('number', 'class', *(f'{_title(part, check.parts)} {unit}' for part, unit, _ in columns))
    labels = {label for _, _, counts in columns for label in counts}
    rows = []
    for label in [*range(len(names)), *sorted(labels - {*range(len(names))})]:
        name = names[label] if 0 <= label < len(names) else '(ignored)' if label == 255 else '(no class)'
        rows.append((label, name, *(counts.get(label, 0) for _, _, counts in columns)))
    return header, rows


def name_table(check):
    """Return the header and the rows of a table of the names on all sides: classes, folders or categories, checkpoint.

    The classes are in the order of their numbers. Folders and categories are in the order in which they are read.
    """
    columns = []
    for part in check.parts:
        title = _title(part, check.parts)
        columns.append((f'{title} classes', part.classes))
        if part.source is not None:
            columns.append((f'{title} {"categories" if check.task == "detection" else "folders"}', part.source))
    if check.checkpoint:
        columns.append(('checkpoint', check.checkpoint))
    rows = zip_longest(*(names for _, names in columns), fillvalue='-')
    return ('number', *(title for title, _ in columns)), [(number, *row) for number, row in enumerate(rows)]


def as_text(check):
    """Return the whole check as text for a terminal."""
    lines = [f'config: {shown(check.config)} ({check.task})']
    for part in check.parts:
        lines += ['', f'{part.split}: {part.name}']
        lines += [f'  {name}: {text}' for name, text in facts(part)]
        lines += [f'  note: {text}' for text in part.notes]
    for title, (header, rows) in (('names', name_table(check)), ('counts', count_table(check))):
        if rows:
            lines += ['', f'{title}:', *aligned(header, rows[:ROWS])]
            lines += [f'  ... and {len(rows) - ROWS} more rows, which the page shows'] if len(rows) > ROWS else []
    if check.problems:
        lines += [
            '',
            f'problems: {len(check.problems)}',
            *(f'  {i}. {text}' for i, text in enumerate(check.problems, 1)),
        ]
    else:
        lines += ['', 'problems: none were found']
    return '\n'.join(map(shown, lines))


def aligned(header, rows):
    """Return the lines of a table with columns of equal width: texts at the left, numbers at the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(header))]
    return [
        '  '
        + '  '.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]


def _title(part, parts):
    """Return the split of a part, with its number where the split has several."""
    same = [other for other in parts if other.split == part.split]
    return part.split if len(same) == 1 else f'{part.split} {same.index(part) + 1}'
