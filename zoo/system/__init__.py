"""The machine and the process: devices, memory, worker processes, and importing torch without its compiler."""
