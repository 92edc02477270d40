"""The machine and the process: devices, memory, worker processes, torch without its compiler."""
