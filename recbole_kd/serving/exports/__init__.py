"""A student in other formats: NumPy archives, FAISS indexes, ONNX graphs, int8 vectors."""
