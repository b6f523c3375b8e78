"""Tables in Markdown."""

from ..files import shown


def markdown_table(rows):
    """Format rows as a Markdown table.

    Args:
        rows: sequences of cells of any type, all of one length; the first row is the header.
    """
    head, *rows = rows
    return '\n'.join('| ' + ' | '.join(map(shown, row)) + ' |' for row in (head, ['---'] * len(head), *rows))
