"""Export of the image decoder: ONNX graphs and TensorRT engines."""
