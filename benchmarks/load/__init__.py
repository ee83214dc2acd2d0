"""A hub under the load of years."""
