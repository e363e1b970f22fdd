"""What the site has beside the pages of this folder: references made from the code, and the repository's own pages.

The pages link to each other as files of the repository, so that they can be read there. Here every link is put where
its page lies on the site; links to folders and sources, which are no pages, become plain text.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

from paceline.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY_PAGES = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "models/README.md": "project/shipped-models.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "deploy/README.md": "project/deploy.md",
}
"""File of the repository to page of the site."""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]*)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in this folder."""
    made = {"reference/cli.md": cli_reference(), "reference/messages.md": protocol_reference()}
    made |= {page: (ROOT / file).read_text() for file, page in _repository_pages().items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Put links where their pages lie here."""
    here = page.file.src_uri
    of_site = {site: file for file, site in _repository_pages().items()}
    in_repository = Path(of_site.get(here, f"docs/{here}"))

    def moved(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        site = _on_site(os.path.normpath(in_repository.parent / target))
        if site is None:
            return text
        return f"[{text}]({os.path.relpath(site, Path(here).parent)}{anchor})"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(moved, part) for part in parts)


@cache
def _repository_pages() -> dict[str, str]:
    return {file: page for file, page in REPOSITORY_PAGES.items() if (ROOT / file).exists()}


def _on_site(file: str) -> str | None:
    """Where a file of the repository is on the site; None for what is no page."""
    if file in _repository_pages():
        return _repository_pages()[file]
    if not file.startswith("docs/"):
        return None
    inside = file.removeprefix("docs/")
    if (ROOT / file).is_dir():
        return f"{inside}/README.md" if (ROOT / file / "README.md").exists() else None
    return inside


def cli_reference() -> str:
    """Every command with its options, as the command line itself explains them."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("paceline", [], resilient_parsing=True)
    return "# Command line\n\nMade from the commands themselves.\n" + get_docs_for_click(
        obj=command, ctx=context, name="paceline", indent=1
    )


def protocol_reference() -> str:
    """Every message, field and enum with its comment, from the `.proto` file."""
    file = _described()
    said = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}
    parts = [
        "# Messages\n\nMade from `proto/paceline/v1/verifier.proto`.",
        "How they play together: [protocol](../protocol.md).",
    ]
    for index, message in enumerate(file.message_type):
        rows = [
            (f"`{one.name}`", str(one.number), _type(one), said.get((4, index, 2, at), ""))
            for at, one in enumerate(message.field)
        ]
        parts.append(_section(message.name, said.get((4, index), ""), ("field", "number", "type", ""), rows))
    for index, enum in enumerate(file.enum_type):
        values = [
            (f"`{one.name}`", str(one.number), said.get((5, index, 2, at), ""))
            for at, one in enumerate(enum.value)
        ]
        parts.append(_section(enum.name, said.get((5, index), ""), ("value", "number", ""), values))
    return "\n\n".join(parts)


def _described() -> descriptor_pb2.FileDescriptorProto:
    with tempfile.NamedTemporaryFile() as out:
        arguments = [
            "protoc",
            f"-I{ROOT / 'proto'}",
            "--include_source_info",
            f"--descriptor_set_out={out.name}",
            "paceline/v1/verifier.proto",
        ]
        if protoc.main(arguments):
            raise RuntimeError("protoc refuses the protocol file")
        return descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes()).file[0]


def _type(field: descriptor_pb2.FieldDescriptorProto) -> str:
    name = field.type_name.rpartition(".")[2]
    if name:
        shown = f"[{name}](#{name.lower()})"
    else:
        shown = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    return f"repeated {shown}" if field.label == field.LABEL_REPEATED else shown


def _section(title: str, comment: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"## {title}", "", comment.strip().replace("\n", " ")]
    if rows:
        lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *_table(rows)]
    return "\n".join(lines)


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"
