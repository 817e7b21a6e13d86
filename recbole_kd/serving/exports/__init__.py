"""Exports of a student for other programs: NumPy archives, FAISS, ONNX, int8 vectors."""
