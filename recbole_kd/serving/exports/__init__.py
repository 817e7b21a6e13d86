"""A student in forms that other programs read: NumPy archives, FAISS indexes, ONNX graphs, int8 vectors."""
