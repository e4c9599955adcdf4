"""The page in the browser."""

from .launch import launch

__all__ = ["launch"]
