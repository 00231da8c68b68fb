"""The browser's native-messaging host. Imports the standard library alone."""
