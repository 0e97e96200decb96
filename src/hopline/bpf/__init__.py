"""The kernel side, in restricted C; the objects are compiled into this package when it is built."""
