"""The functions that an app registers: the registry, parameters, `progress` and stops.

Apps, workers and the tests of apps import from here; the daemon reads only descriptions of functions.
Nothing here does any I/O.
"""
