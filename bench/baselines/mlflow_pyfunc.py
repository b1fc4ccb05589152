"""What a person writes with MLflow: load a logged ONNX model as pyfunc, answer a CSV.

    python mlflow_pyfunc.py save MODEL.onnx FOLDER     once
    python mlflow_pyfunc.py FOLDER ROWS.csv            what is timed

Measured once, by hand, in an environment of its own with mlflow-skinny, onnx, onnxruntime and
pandas: MLflow is no dependency of the bench.
"""

import sys

if sys.argv[1] == "save":
    import mlflow.onnx
    import onnx

    mlflow.onnx.save_model(onnx.load(sys.argv[2]), sys.argv[3])
else:
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(sys.argv[1])
    rows = pd.read_csv(sys.argv[2]).to_numpy(dtype="float64")
    print(model.predict(rows))
