"""The protocol over HTTP, thin on starlette."""
