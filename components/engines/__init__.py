"""One module an engine; components/engine.py says what it must have."""
