"""Code that runs inside the fork server and the workers, and the daemon's messages to and from them.

`fork_server` imports the app and forks workers (`forking`), each of which runs
`loop`; the daemon's side of these processes is `taskd.pool`. Nothing here
imports Twisted.
"""
