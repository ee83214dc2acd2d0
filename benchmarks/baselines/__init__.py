"""Baselines that exist only to be compared with what thinwire ships. Nothing of the product imports them."""
