"""`felixctl get`: which objects are meant, in which columns, in which form."""
