"""How many times the usual examples the tests of durability run: `make soak` multiplies them."""

import os

SOAK = "THINWIRE_SOAK" in os.environ
TIMES = 10 if SOAK else 1
