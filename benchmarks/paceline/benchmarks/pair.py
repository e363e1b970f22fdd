"""Which models a benchmark runs."""

from dataclasses import dataclass
from pathlib import Path

from paceline.common.errors import InvalidRequest
from paceline.common.shipped import models_dir
from paceline.common.tokenizer import Tokenizer
from paceline.edge.assemble import EdgeModel, assemble


@dataclass(frozen=True, slots=True)
class Pair:
    """A target, and what drafts for it."""

    target: Path
    draft_model: Path
    drafter: str = "onnx"
    """The drafter's name at the edge; transformers' assistant is always `draft_model` itself."""

    def edge(self) -> EdgeModel:
        """Drafter and tokenizer, on one thread."""
        return assemble(self.draft_model, kind=self.drafter)

    def tokenizer(self) -> Tokenizer:
        """The target's."""
        return Tokenizer(self.target)

    def edge_options(self) -> list[str]:
        """The same choice for `paceline edge generate`."""
        return ["--draft-model", str(self.draft_model), "--drafter", self.drafter]


def choose_pair(target: Path | None, draft_model: Path | None, drafter: str) -> Pair:
    """The models named, else the shipped ones.

    Raises:
        InvalidRequest: a folder does not exist, or no models are shipped here.
    """
    if target is None or draft_model is None:
        shipped = models_dir()
        target, draft_model = target or shipped / "base", draft_model or shipped / "pico"
    for folder, field in ((target, "target"), (draft_model, "draft_model")):
        if not folder.is_dir():
            raise InvalidRequest(f"there is no model folder {folder}", field=field, cure="check the path")
    return Pair(target, draft_model, drafter)


def shipped_prompts(name: str) -> Path | None:
    """A file of `models/prompts`, if there is one."""
    try:
        file = models_dir() / "prompts" / name
    except InvalidRequest:
        return None
    return file if file.is_file() else None
