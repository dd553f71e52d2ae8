"""Exports to ONNX Runtime, which computes on CPUs in float32 or in int8."""
