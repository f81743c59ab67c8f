"""The daemon's side of the processes that import the app and run its functions."""
