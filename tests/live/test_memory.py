"""The memory of the daemon under clients that would fill it, and what comes back when they are gone."""

MIB = 1024 * 1024
LIMIT = 16 * MIB
MARGIN = 12 * MIB
"""Bytes that the daemon may take besides what it holds: copies on their way, and what malloc keeps."""
