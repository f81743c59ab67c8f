"""The fork server and the workers: everything that runs in those processes, and the messages to them.

`fork_server` imports the app and forks workers (`forking`), each of which runs `loop`; the
daemon's side of all this is `taskd.pool`. Nothing here imports Twisted.
"""
