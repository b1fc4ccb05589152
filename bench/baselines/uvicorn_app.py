"""What a person writes without us for a local server: FastAPI, uvicorn, onnxruntime, a socket.

    python uvicorn_app.py MODEL SOCKET

Nothing is verified, checked against a schema, watched or journaled. One thread for the model.
"""

import sys

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
ports = session.get_inputs()
names = [port.name for port in ports]
kind = np.float64 if "double" in ports[0].type else np.float32
app = FastAPI()


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class Request(BaseModel):
    inputs: list[Tensor]


@app.post("/infer")
def infer(request: Request) -> dict[str, object]:
    columns = {tensor.name: tensor.data for tensor in request.inputs}
    if len(ports) == 1:
        feeds = {names[0]: np.array(list(columns.values()), dtype=kind).T}
    else:
        feeds = {name: np.array(columns[name], dtype=kind).reshape(-1, 1) for name in names}
    labels, scores = session.run(None, feeds)
    return {
        "model_name": "plain",
        "outputs": [
            {"name": "label", "shape": list(labels.shape), "data": labels.tolist()},
            {"name": "scores", "shape": list(scores.shape), "data": scores.ravel().tolist()},
        ],
    }


uvicorn.run(app, uds=sys.argv[2], log_level="error", access_log=False)
