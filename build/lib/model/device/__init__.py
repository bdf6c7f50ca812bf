"""Host and accelerator: copies, events and captured graphs, the same on a CPU and on CUDA."""
