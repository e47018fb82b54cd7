"""The studio: domain and web. Imports no GPU library; the work on the GPU is `worker`'s."""

__version__ = "0.1.0"
