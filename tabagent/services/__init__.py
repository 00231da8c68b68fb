"""Services: what TabAgent does, one file per domain. They know no HTTP and no processes."""
