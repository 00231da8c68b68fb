"""Reading documents that strangers wrote, in a child process of its own: see __main__.py."""
