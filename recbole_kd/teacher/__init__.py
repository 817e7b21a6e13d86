"""Teachers: frozen scores behind one interface, independent of how they are stored."""
