"""The device's side: drafters, draft length, modes of generation, the client. Needs no torch."""
