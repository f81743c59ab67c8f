"""The task server: tasks from their acceptance to their outcome."""
