"""Network namespaces: clients, NATs of the kernel's own making, the internet and the server."""
