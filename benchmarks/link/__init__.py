"""The link laboratory: emulated links, and thinwire beside what clinics use today on them. Docs: docs/link-laboratory.md."""
