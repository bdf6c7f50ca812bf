"""What each stage of training learns."""
