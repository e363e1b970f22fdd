"""Generated protocol code (`make proto`); only the codec, the gRPC hop and the service import it."""
