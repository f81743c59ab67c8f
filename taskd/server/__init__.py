"""The task server: accepts calls as tasks, has the pool run what the scheduler decides, completes tasks.

No connection is handled here: those are in `taskd.listeners`.
"""
