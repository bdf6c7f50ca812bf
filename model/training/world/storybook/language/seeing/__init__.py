"""What is asked about images, and the answers: descriptions, details, boxes."""
