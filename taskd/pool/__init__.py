"""The processes that do the work, and the daemon's side of them.

`forkserver` and `worker` run in processes of their own and import no Twisted;
`pool`, `link` and `output` run in the daemon.
"""
