"""Tables of measurements on a terminal."""

from rich.table import Table


def measured_table(*columns: str, left: int) -> Table:
    """An empty table whose first ``left`` columns hold words and the others figures."""
    table = Table()
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right")
    return table
