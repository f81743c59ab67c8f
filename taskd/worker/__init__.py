"""What runs in the fork server and in workers. Nothing here imports Twisted."""
