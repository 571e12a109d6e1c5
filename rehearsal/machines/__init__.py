"""Simulated VMs: namespaces, a disk, an init, and the stand-in commands inside."""
