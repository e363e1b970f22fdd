"""What both ends share: values, pure mathematics, protocol state machines, configuration, codec, links.

Imports neither `paceline.edge` nor `paceline.cloud`, neither torch nor onnxruntime (import-linter checks it).
"""
