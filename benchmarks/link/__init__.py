"""The link laboratory: emulated links, and thinwire beside today's tools. Docs: docs/link-laboratory.md."""
