"""Images to visual tokens and multi-scale feature maps."""
