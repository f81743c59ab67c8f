"""taskd in the frameworks of others: each package here is for one, and imports it."""
