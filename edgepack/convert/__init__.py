"""From a fitted estimator, or a file from elsewhere, to one ONNX that answers the same."""
