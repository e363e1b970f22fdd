"""The local endpoint: the OpenAI API on this device, answered by the verifier's model."""
