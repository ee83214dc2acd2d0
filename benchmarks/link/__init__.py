"""The link laboratory: emulated links, and thinwire beside what clinics use today. Docs: docs/link-laboratory.md."""
