"""The relay's shortcut through the Linux kernel: an eBPF program at the ingress of interfaces."""
