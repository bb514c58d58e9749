"""MXFlex: the web face of a Zultys MX telephone server."""

__version__ = "2.0.0"
