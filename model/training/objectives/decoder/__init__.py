"""Objectives of the image decoder: its autoencoder, and the U-Net with its synchronizer."""
