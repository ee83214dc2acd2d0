"""The tests of sites run on both databases."""

from tests.support.both_databases import data, engine

__all__ = ["data", "engine"]
