"""gentool: generative models under one command line."""

__version__ = "0.1.0"
