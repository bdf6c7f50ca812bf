"""Simulation of the workers' autoscaling, with the formulas of KEDA and the HPA."""
