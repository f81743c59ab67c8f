"""The functions that an app registers: `@task`, checks of arguments, `progress`, stop exceptions.

Apps, workers and the tests of apps use these modules; the daemon sees only
descriptions of functions (`FunctionInfo`). Nothing here does I/O.
"""
