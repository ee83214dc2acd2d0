"""A hub under the load of years and of many clinics. Docs: docs/load-laboratory.md."""
