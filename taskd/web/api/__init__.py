"""The HTTP API, ``/api/v1``: stored tasks and batches, functions and the status, as JSON."""
