"""The measurements in the documents, written from benchmarks/results alone."""
