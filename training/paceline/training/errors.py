"""Errors of the training package.

TrainingError (ValueError)      the caller's input is wrong; retrying does not help
├── CorpusError                 the text given cannot be trained on
├── ShapeError                  a model shape that cannot be built or served
└── CheckpointError             a checkpoint that does not belong to this run
"""


class TrainingError(ValueError):
    """Bad input: names the field, the value found, and what to do about it."""

    def __init__(self, field: str, value: object, cure: str) -> None:
        super().__init__(f"{field}={value!r}: {cure}")
        self.field = field
        self.value = value
        self.cure = cure


class CorpusError(TrainingError):
    """The text given cannot be trained on (missing, empty, too short)."""


class ShapeError(TrainingError):
    """A model shape that cannot be built, or that paged attention could not serve."""


class CheckpointError(TrainingError):
    """A checkpoint that was written by a run with other settings."""
