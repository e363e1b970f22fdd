"""`paceline bench`: to be wired."""


def bench() -> None:
    """Measure Paceline beside what you would use instead."""
