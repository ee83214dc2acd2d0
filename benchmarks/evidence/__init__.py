"""What the documents say of the measurements, written from benchmarks/results alone."""
