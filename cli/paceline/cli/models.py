"""`paceline models`: train, distil, export and describe models."""

import typer

app = typer.Typer(name="models", help="Train, distil, export and describe models.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Train, distil, export and describe models."""
