"""A coder that learned nothing, for graphs of tests."""

from thinwire.shared.formats.bundle import BundleSpec
from thinwire.shared.formats.coder import Coder, Tables, untaught

REACH = 40
LEVELS = (0.05, 0.1, 0.4)


def plain_tables(spec: BundleSpec) -> Tables:
    return untaught(spec, LEVELS, REACH)


def plain_coder(spec: BundleSpec) -> Coder:
    return Coder(spec, plain_tables(spec))
