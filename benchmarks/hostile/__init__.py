"""Malformed and hostile requests to a server of the Open Inference Protocol, and what became of each."""
