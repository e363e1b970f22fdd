"""The `paceline` command: the one place that knows both ends."""
