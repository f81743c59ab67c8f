"""The daemon's side of its child processes: starts, feeds, signals and buries fork servers and workers.

What runs inside those processes is `taskd.worker`; which worker gets which task
is decided in `taskd.scheduler`.
"""
