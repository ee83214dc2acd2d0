"""Loaders of data sets, each with its layout in docs/researcher.md, and one function that opens any of them."""

from thinwire.receiver.training.datasets.opening import open_data
from thinwire.receiver.training.datasets.summary import Summary

__all__ = ["Summary", "open_data"]
