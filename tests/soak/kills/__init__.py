"""The soak that kills: whatever dies, what was acknowledged is run, and settled once."""
