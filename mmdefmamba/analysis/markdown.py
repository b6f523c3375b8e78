"""Tables as text."""


def markdown_table(rows):
    """A table in Markdown.

    Args:
        rows: lists of as many cells each, of any type; the first row is its head.
    """
    head, *rows = rows
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in (head, ['---'] * len(head), *rows))
