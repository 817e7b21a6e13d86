"""Teachers: frozen scores behind one protocol, whatever they are kept as."""
