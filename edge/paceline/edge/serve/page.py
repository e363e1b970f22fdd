"""The playground's page: three files, and what a browser may do with them."""

from importlib.resources import files

ASSETS = {
    "/": ("index.html", "text/html"),
    "/playground/app.js": ("app.js", "text/javascript"),
    "/playground/style.css": ("style.css", "text/css"),
}
"""Path to file and type."""
OPEN_PATHS = tuple(ASSETS)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def asset(name: str) -> bytes:
    """The content of one of the files."""
    return files(__package__).joinpath("playground", name).read_bytes()
