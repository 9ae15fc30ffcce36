"""The Open Inference Protocol without a transport: tensors, requests, documents and messages."""
