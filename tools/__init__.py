"""Programs for those who work on taskd."""
