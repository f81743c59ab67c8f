"""Rows of arguments in texts: cut, converted by the parameters of a function, and checked; without files."""
