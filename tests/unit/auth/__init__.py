"""Tests of taskd.auth."""
