"""One big batch of small pieces, on the cores of this machine or on a Ray cluster."""
