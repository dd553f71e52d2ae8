"""The files of an export beside `folders.ONNX_ENCODER`."""

import re

DECODER = 'decoder.onnx'
ATTENTION = 'attention.onnx'
WEIGHTS = 'weights.bin'
FILES = re.compile(r'(encoder|decoder|attention)\.onnx|weights\.bin')
