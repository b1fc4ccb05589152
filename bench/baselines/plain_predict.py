"""What a person writes without us for one row: import numpy and onnxruntime, predict, print.

    python plain_predict.py MODEL ROW.csv

Nothing is verified, checked or journaled. One thread, as on the device.
"""

import sys

import numpy as np
import onnxruntime as ort

options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
with open(sys.argv[2], encoding="utf-8") as file:
    next(file)
    rows = [[float(cell) for cell in line.split(",")] for line in file]
ports = session.get_inputs()
table = np.array(rows, dtype=np.float64 if "double" in ports[0].type else np.float32)
if len(ports) == 1:
    feeds = {ports[0].name: table}
else:
    feeds = {port.name: table[:, at : at + 1] for at, port in enumerate(ports)}
for answers in session.run(None, feeds):
    print(answers.tolist())
