"""The toolbox daemon that runs inside a sandbox."""

__version__ = "0.1.0"
