"""What a person writes without us: read a CSV with pandas, predict with onnxruntime, write a CSV.

    python plain_csv.py MODEL ROWS.csv OUT.csv

Nothing is verified, checked or journaled. One thread, as on the device.
"""

import sys

import numpy as np
import onnxruntime as ort
import pandas as pd

model, source, target = sys.argv[1:4]
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
frame = pd.read_csv(source)
feeds = {}
for port in session.get_inputs():
    column = frame[port.name]
    if port.type == "tensor(string)":
        feeds[port.name] = column.fillna("").to_numpy(dtype=object).reshape(-1, 1)
    else:
        feeds[port.name] = column.to_numpy(dtype=np.float32).reshape(-1, 1)
labels, scores = session.run(["label", "probabilities"], feeds)
answers = pd.DataFrame({"row": frame["row"], "late": labels})
answers["late_p_false"], answers["late_p_true"] = scores[:, 0], scores[:, 1]
answers.to_csv(target, index=False)
