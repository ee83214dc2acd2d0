"""Baselines that exist only to be compared with thinwire's own models. Nothing of the product imports them."""
